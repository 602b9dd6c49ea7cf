"""Features that tell no items apart are left out, and every command tells how many items have some."""

import shutil

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from PIL import Image

import train_HeLLM
from config_HeLLM import parse_args
from preprocess import check, pretrain_graph, tables
from tests.support.small_data import N_ITEMS, short_command, write_dataset, write_interactions
from tests.support.small_tables import convert, dataset, encode, join, last_lines, purchases, row, table_of
from utils.data.feature_checks import why_uninformative

# ---------------------------------------------------------------- features that tell no items apart


def constant(n_items, rng):
    return np.tile(rng.normal(size=5), (n_items, 1))


def rounded(n_items, rng):
    return constant(n_items, rng) * (1 + 1e-7 * rng.normal(size=(n_items, 5)))


def one_direction(n_items, rng):
    return constant(n_items, rng) * rng.uniform(1, 9, (n_items, 1))


def some_zero(n_items, rng):
    return constant(n_items, rng) * (np.arange(n_items) % 3 > 0)[:, None]


def one_row(n_items, rng):
    return constant(n_items, rng) * (np.arange(n_items) == 3)[:, None]


def opposite(n_items, rng):
    return constant(n_items, rng) * np.where(np.arange(n_items) % 2, 1, -1)[:, None]


def one_differs(n_items, rng):
    return np.concatenate([constant(n_items - 1, rng), rng.normal(size=(1, 5))])


USELESS = {
    constant: "all rows are equal",
    rounded: "all rows are equal",
    one_direction: "all rows point in one direction",
    some_zero: "rows that are not zero are equal",
    one_row: "only one row is not zero",
}


@pytest.mark.parametrize("as_given", [torch.from_numpy, sp.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("make", [*USELESS, opposite, one_differs])
@pytest.mark.parametrize("n_items", [40, 1500])
def test_features_that_tell_no_items_apart_are_recognised(make, as_given, n_items):
    matrix = make(n_items, np.random.default_rng(0)).astype(np.float32)
    found = why_uninformative(as_given(matrix))
    assert USELESS.get(make, "") in found
    assert bool(found) == (make in USELESS)


@pytest.fixture
def place(tmp_path):
    """Write the small dataset with informative features."""
    folder = write_dataset(tmp_path / "data")
    np.save(folder / "good_feat.npy", np.random.default_rng(1).normal(size=(N_ITEMS, 4)))
    return tmp_path


def useless(root, make, suffix=".npy", name="equal"):
    """Write features that tell no items apart into the small dataset."""
    matrix = make(N_ITEMS, np.random.default_rng(0)).astype(np.float32)
    path = root / "data" / "sequential" / "Small" / f"{name}_feat{suffix}"
    if suffix == ".npz":
        sp.save_npz(path, sp.csr_matrix(matrix))
    else:
        np.save(path, matrix)
    return path


def pretrain(root, *more):
    data = ["--dataset", "Small", "--data_dir", str(root / "data"), "--overwrite", "--num_epochs", "1"]
    folders = ["--output_dir", str(root / "output"), "--logging_dir", str(root / "log"), "--device", "cpu"]
    return pretrain_graph.main([*data, *folders, *more])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pretraining_leaves_equal_rows_out_and_logs_the_reason(place, suffix, capsys):
    useless(place, constant, suffix)
    assert pretrain(place) == 0
    log = (place / "log" / "Small" / "MMHCL" / "pretrain_log.txt").read_text()
    assert f"equal_feat{suffix} left out: all rows are equal, so they tell no two items apart" in log
    assert f"good_feat.npy: features of {N_ITEMS} of {N_ITEMS} items" in log
    assert f"CRC-32 of equal_feat{suffix}" not in log
    capsys.readouterr()
    assert pretrain(place, "--features", "equal") == 2
    assert "all rows are equal, so they tell no two items apart; leave it out of --features" in capsys.readouterr().err


def test_pretraining_with_nothing_left_names_the_way_out(place, capsys):
    useless(place, constant, name="good")
    assert pretrain(place) == 2
    error = capsys.readouterr().err
    assert "no features are left: good_feat.npy left out: all rows are equal" in error
    assert "train without item features by --item_loss_ratio 0" in error


def test_fine_tuning_leaves_equal_rows_out_and_logs_the_reason(place, capsys):
    alone = ["--feature_input", "--feature_width", "3", "--no-graph_input", "--no-seq_input", "--no-graph_adapter"]
    argv = short_command(place, *alone, "--n_layers", "1")
    useless(place, one_direction)
    assert train_HeLLM.setup_run(parse_args(argv)).model.feature_embedding.shape == (N_ITEMS, 3)
    assert train_HeLLM.main([*argv, "--plan"]) == 0
    assert train_HeLLM.main(argv) == 0
    assert "equal_feat.npy left out: all rows point in one direction" in capsys.readouterr().out
    assert train_HeLLM.main([*argv, "--features", "equal", "--overwrite"]) == 2
    assert "leave it out of --features" in capsys.readouterr().err


# ---------------------------------------------------------------- making features


def test_texts_that_share_one_word_only_are_left_out(tmp_path, capsys):
    words = [f"shared w{n}" for n in range(7)]
    table = "\n".join(["item,title", *(f"{n},{text}" for n, text in enumerate(words, 1))])
    interactions = purchases(range(1, 8), per_user=7)
    assert join(tmp_path, table, interactions) == 0
    assert encode(tmp_path, "text") == 2
    assert "text_feat.npz: not written: all rows are equal, so they tell no two items apart" in capsys.readouterr().err
    assert join(tmp_path, table.replace("shared w1\n", "alone\n"), interactions) == 0
    assert encode(tmp_path, "text") == 2
    assert "not written: all 6 rows that are not zero are equal" in capsys.readouterr().err
    assert not list(dataset(tmp_path).glob("text_feat*.np?"))


def test_equal_texts_are_left_out_before_any_model_is_loaded(tmp_path, capsys):
    table = "\n".join(["item,title", *(f"{n},same  words" for n in range(1, 8))])
    assert join(tmp_path, table, purchases(range(1, 8), per_user=7)) == 0
    assert encode(tmp_path, "text", "--encoder", "bert", "--model_name", "nowhere") == 2
    assert "all texts are 'same words'" in capsys.readouterr().err


def test_texts_are_counted(tmp_path, capsys):
    table = "\n".join(["item,title", *(f"{n},{'red' if n % 2 else 'blue'} lamp" for n in range(1, 7))])
    assert join(tmp_path, table, purchases(range(1, 8), per_user=7)) == 0
    capsys.readouterr()
    assert encode(tmp_path, "text") == 0
    out = last_lines(capsys)
    assert row(out, "texts") == "texts 6 of 7 items in item_text.tsv"
    assert row(out, "features") == "features 6 of 7 3 columns; zeros for the others"


def pictures(root, names, colours=True):
    """Write a picture per name into the dataset's folder."""
    folder = dataset(root) / "pictures"
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (20, 20), (90 * (number % 3) * colours, 0, 0)).save(folder / f"{name}.png")


def test_pictures_are_counted_and_their_names_matched_by_number(tmp_path, capsys):
    assert convert(tmp_path, purchases([f"{n}.0" for n in range(1, 8)], per_user=7)) == 0
    pictures(tmp_path, ["1", "02", "3.0", "x"])
    capsys.readouterr()
    assert encode(tmp_path, "image", "--encoder", "histogram") == 0
    out = last_lines(capsys)
    assert row(out, "pictures").startswith("pictures 3 of 7 2 of them written otherwise there, as '02' for '2'")
    assert row(out, "features").startswith("features 3 of 7 64 columns; the others, and why, are in image_missing.tsv")


def test_pictures_of_other_names_and_equal_pictures_are_left_out(tmp_path, capsys):
    assert convert(tmp_path, purchases(range(1, 8), per_user=7)) == 0
    pictures(tmp_path, ["img_1", "img_2"])
    assert encode(tmp_path, "image", "--encoder", "histogram") == 2
    error = capsys.readouterr().err
    assert "no picture of any item that can be read; the first one: no picture; it has 'img_1', 'img_2', the" in error
    assert "they agree in their digits alone" in error
    shutil.rmtree(dataset(tmp_path) / "pictures")
    pictures(tmp_path, range(1, 8), colours=False)
    assert encode(tmp_path, "image", "--encoder", "histogram", "--whiten") == 2
    assert "image_feat.npy: not written: all rows are equal" in capsys.readouterr().err
    assert not [path for path in dataset(tmp_path).iterdir() if path.name.startswith("image_feat.")]


# ---------------------------------------------------------------- the check


ALONE = ["--feature_input", "--no-graph_input", "--no-seq_input", "--no-graph_adapter"]


def checked(root, capsys, *more):
    """Return status and lines of the check of the small dataset."""
    status = check.main(["--dataset", "Small", "--data_dir", str(root / "data"), *more])
    return status, capsys.readouterr().out.splitlines()


def test_models_of_features_alone_need_no_tables(place, capsys):
    assert checked(place, capsys)[1][-1] == (
        "* needed for fine-tuning on graph and sequence embeddings, which can start"
    )
    folder = place / "data" / "sequential" / "Small"
    (folder / "MMHCL_item_embeddings.pt").unlink()
    status, lines = checked(place, capsys)
    assert status == 1
    assert lines[-1].endswith("cannot start yet; from features alone it can: " + " ".join(ALONE))
    status, lines = checked(place, capsys, *ALONE)
    assert status == 0
    assert lines[-1] == "* needed for fine-tuning on features, which can start"
    assert [line.split()[2] for line in lines if line[9:10] == "*"] == ["Small.txt", "good_feat.npy"]
    assert checked(place, capsys, "--no-graph_input", "--no-graph_adapter")[0] == 0
    useless(place, constant, name="good")
    status, lines = checked(place, capsys, *ALONE)
    assert status == 1
    assert any("left out by all programs: all rows are equal" in line for line in lines)


def test_texts_of_other_items_are_wrong(tmp_path, capsys):
    assert join(tmp_path, table_of(range(1, 13))) == 0
    path = dataset(tmp_path) / "item_text.tsv"
    path.write_text(path.read_text().replace("3\t4\t", "3\t5\t"))
    capsys.readouterr()
    check.main(["--dataset", "X", "--data_dir", str(tmp_path / "data")])
    assert "item_text.tsv: line 5: item 3 is 5, but 4 in i_id_mapping.csv" in capsys.readouterr().out


# ---------------------------------------------------------------- both tables by one command


@pytest.mark.slow
def test_tables_tell_what_was_made_kept_and_left_out(tmp_path, capsys):
    folder = write_interactions(tmp_path / "data")
    (folder / "item_text.tsv").write_text("item_id\tasin\ttext\n" + "".join(f"{n}\tA{n}\tsame\n" for n in range(9)))
    path = useless(tmp_path, constant, name="audio")
    folders = {f"{kind}_dir": str(tmp_path / kind) for kind in ("data", "output", "logging")}
    settings = tables.TableSettings("Small", sentences=False, **folders)
    flags = ("--num_epochs 1 --embed_dim 4", "--num_epochs 1 --width 4 --hidden 4")
    end = tables.make_tables(settings, *flags).render()
    assert row(end, "text").startswith("text left out item_text.tsv: all texts are 'same'")
    assert row(end, "item hypergraph") == "item hypergraph left out no features that tell items apart"
    assert row(end, "MMHCL_item_embeddings.pt").startswith("MMHCL_item_embeddings.pt made test ")
    assert path.exists()
    capsys.readouterr()
    argv = ["--dataset", "Small", "--no-sentences", *(f"--{name}={path}" for name, path in folders.items())]
    assert tables.main(argv) == 0
    assert row(last_lines(capsys), "SASRec_item_embedding.pt") == "SASRec_item_embedding.pt kept"
