"""User errors in preprocess.features: one line, and nothing is written."""

import json

import numpy as np
import pytest
from transformers import BertModel

from preprocess import features
from tests.support.small_data import N_ITEMS, write_interactions, write_texts
from tests.support.small_encoders import write_bert, write_clip, write_pictures
from utils.runtime.lock import LOCK_FILE


@pytest.fixture
def folder(tmp_path):
    """Write a dataset with texts, picture URLs, and pictures of the first ten items."""
    folder = write_interactions(tmp_path / "data")
    write_texts(folder)
    write_pictures(folder / "pictures", 10)
    lines = [f"{item}\tA{item}\thttp://127.0.0.1/{item}" for item in range(N_ITEMS)]
    (folder / "item_image.tsv").write_text("\n".join(["item_id\tasin\turl", *lines]) + "\n")
    return folder


def exit_status(argv):
    """Return the exit status of the program, which a command line that can't be parsed ends at once."""
    try:
        return features.main(argv)
    except SystemExit as stop:
        return stop.code


def run(folder, kind, *more):
    return exit_status([kind, "--dataset", "Small", "--data_dir", str(folder.parents[1]), "--device", "cpu", *more])


TEXT, CLIP = ["text", "--encoder", "bert"], ["image", "--encoder", "clip"]
HISTOGRAM = ["image", "--encoder", "histogram"]


def remove(path):
    return lambda folder, models: (models / path).unlink()


def change_model_type(folder, models):
    config = json.loads((models / "bert" / "config.json").read_text())
    (models / "bert" / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))


def truncate_config(folder, models):
    path = models / "bert" / "config.json"
    path.write_text(path.read_text()[:60])


def drop_weights(folder, models):
    model = BertModel.from_pretrained(models / "bert")
    kept = {name: w for name, w in model.state_dict().items() if "layer.1.output.dense" not in name}
    model.save_pretrained(models / "bert", state_dict=kept)


def replace_weights(folder, models):
    (models / "bert" / "model.safetensors").write_bytes(b"version https://git-lfs")


def add_a_word(folder, models):
    with (models / "bert" / "vocab.txt").open("a") as file:
        file.write("surplus\n")


def enlarge_crop(folder, models):
    path = models / "clip" / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"height": 32', '"height": 40'))


def break_all_pictures(folder, models):
    for path in (folder / "pictures").iterdir():
        path.write_bytes(b"")


def no_damage(folder, models):
    pass


@pytest.mark.parametrize(
    ("damage", "argv", "message"),
    [
        (no_damage, [], "python -m preprocess.features text [flags], or"),
        (no_damage, ["audio"], "python -m preprocess.features text [flags], or"),
        (lambda folder, models: np.save(folder / "image_feat.npy", [1]), HISTOGRAM, "already exists; --overwrite"),
        (
            lambda folder, models: (folder / "text_feat.pt").touch(),
            ["text"],
            "text_feat.pt: already exists; --overwrite",
        ),
        (remove("bert/config.json"), TEXT, "bert: no config.json; a local folder with a Hugging Face bert model"),
        (remove("bert/vocab.txt"), TEXT, "bert: no tokenizer.json or vocab.txt"),
        (remove("bert/model.safetensors"), TEXT, "bert: BertModel can't be read"),
        (remove("clip/preprocessor_config.json"), CLIP, "clip: no preprocessor_config.json"),
        (change_model_type, TEXT, "config.json: model_type is 'roberta'; a local folder"),
        (truncate_config, TEXT, "config.json: not JSON"),
        (replace_weights, TEXT, "bert: BertModel can't be read"),
        (drop_weights, TEXT, "bert: 2 weights of BertModel missing, encoder.layer.1.output.dense.bias among them"),
        (add_a_word, TEXT, "bert: a tokenizer of 21 tokens, [CLS] and [PAD] among them, is expected for a model of 20"),
        (enlarge_crop, CLIP, "clip: its image processor makes (3, 40, 32), its model reads (3, 32, 32)"),
        (no_damage, [*HISTOGRAM, "--pictures", "elsewhere"], "elsewhere: no such folder; put pictures there"),
        (break_all_pictures, HISTOGRAM, "pictures: no picture of any item that can be read; the first one: not a JPEG"),
        (remove("data/sequential/Small/item_image.tsv"), HISTOGRAM, "neither i_id_mapping.csv nor item_image.tsv"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(folder, tmp_path, damage, argv, message, capfd):
    write_bert(tmp_path / "bert")
    write_clip(tmp_path / "clip")
    damage(folder, tmp_path)
    before = sorted(folder.iterdir())
    capfd.readouterr()
    models = ["--model_name", str(tmp_path / argv[2])] if argv[:3] in (TEXT, CLIP) else []
    assert exit_status([]) == 2 if not argv else run(folder, *argv, *models) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(path for path in folder.iterdir() if not path.name.endswith(LOCK_FILE)) == before


def test_contradicting_item_lists_are_refused(folder, capsys):
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n0,A0\n1,B1\n")
    assert run(folder, *HISTOGRAM) == 2
    assert "item_image.tsv: line 3: item 1 is A1, but B1 in i_id_mapping.csv" in capsys.readouterr().err
    (folder / "item_image.tsv").unlink()
    assert run(folder, *HISTOGRAM, "--fetch") == 2
    assert "item_image.tsv: missing; --fetch reads addresses from it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["text", "--encoder", "bert"], "--encoder bert: --model_name must give the local folder"),
        (["image"], "--encoder clip: --model_name must give"),
        (["image", "--encoder", "bert"], "--encoder: invalid choice: 'bert' (choose from 'clip', 'histogram')"),
        (["text", "--name", "../words"], "--name '../words': a name without folders"),
        (["text", "--shard_size", "0"], "--shard_size 0: at least 1"),
        (["text", "--whiten"], "--whiten: features of --encoder tfidf stay sparse; take another encoder"),
        (["image", "--timeout", "0", "--connections", "0", "--retries", "-1"], "--timeout 0.0: above 0"),
        (["text", "--fetch"], "unknown argument --fetch"),
    ],
)
def test_invalid_settings_are_refused(folder, argv, message, capsys):
    assert run(folder, *argv) == 2
    assert message in capsys.readouterr().err
