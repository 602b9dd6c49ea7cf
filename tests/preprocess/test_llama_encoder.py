"""Texts encoded by LLaMA itself, against the transformers library."""

import numpy as np
import pytest
import torch

from llama.tokenizer import open_tokenizer
from preprocess import features
from tests.support.small_data import N_ITEMS, write_interactions, write_texts
from tests.support.small_gguf import write_gguf
from tests.support.small_llama import reference
from tests.support.small_model import tokenizer

MERGES = ["Ġ t", "t h", "h i", "Ġt hi", "n g", "Ġthi ng", "o u", "g r", "gr ou", "grou p"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789Ġ"
BPE = {
    "model": "gpt2",
    "pre": "smollm",
    "tokens": ["<s>", *LETTERS, *(merge.replace(" ", "") for merge in MERGES)],
    "merges": MERGES,
    "bos_token_id": 0,
}


@pytest.fixture
def folder(tmp_path):
    folder = write_interactions(tmp_path / "data")
    write_texts(folder)
    return folder


def encode(folder, weights, *more):
    flags = ["--data_dir", str(folder.parents[1]), "--device", "cpu", "--encoder", "llama", "--batch_size", "7"]
    return features.main(["text", "--dataset", "Small", *flags, "--model_name", str(weights), *more])


def assert_mean_of_hidden_states(folder, model, weights):
    """Check the features against one text at a time; tokens that start a sequence do not count."""
    found = np.load(folder / "text_feat.npy")
    assert (found.shape, found.dtype) == ((N_ITEMS, 32), np.float32)
    tokenize, n_start = open_tokenizer(weights)
    for item, text in enumerate(features.read_texts(folder / "item_text.tsv", N_ITEMS)):
        with torch.no_grad():
            hidden = model.model(torch.tensor([tokenize(text)])).last_hidden_state[0]
        np.testing.assert_allclose(found[item], hidden[n_start:].mean(0), atol=1e-5)
    assert np.abs(found[0] - found[3]).max() > 0.1


def test_folder_with_a_sentencepiece_tokenizer_equals_transformers(folder, tmp_path):
    model = reference(vocab_size=320)
    model.save_pretrained(tmp_path / "weights")
    tokenizer(tmp_path / "weights" / "tokenizer.model")
    lines = (folder / "item_text.tsv").read_text().splitlines()
    lines[4] = "3\tA3\tBelow is an instruction that describes a task"  # of another length
    (folder / "item_text.tsv").write_text("\n".join(lines) + "\n")
    assert encode(folder, tmp_path / "weights") == 0
    assert_mean_of_hidden_states(folder, model, tmp_path / "weights")


@pytest.mark.parametrize("starts", [{}, {"add_bos_token": True}], ids=str)
def test_gguf_file_with_its_own_tokenizer_equals_transformers(folder, tmp_path, starts):
    pytest.importorskip("gguf")
    model = reference()
    path = write_gguf(tmp_path / "small.gguf", model, tokenizer=BPE | starts)
    assert encode(folder, path) == 0
    assert_mean_of_hidden_states(folder, model, path)
    found = np.load(folder / "text_feat.npy")
    assert encode(folder, path, "--shard_size", "1", "--overwrite") == 0
    assert np.array_equal(found, np.load(folder / "text_feat.npy"))


def test_bpe_splits_words_and_digits_and_knows_no_control_tokens(tmp_path):
    pytest.importorskip("gguf")
    path = write_gguf(tmp_path / "small.gguf", reference(), tokenizer=BPE)
    tokenize, n_start = open_tokenizer(path)
    found = [BPE["tokens"][token] for token in tokenize("group10 thing s")]
    assert (found, n_start) == (["group", "1", "0", "Ġthing", "Ġ", "s"], 0)
    assert [BPE["tokens"][token] for token in tokenize("<s>")] == ["s"]  # characters without a token are left out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "llama"}, "put the model's tokenizer.model beside it"),
        ({"pre": "llama-bpe"}, "put the model's tokenizer.model beside it"),
        ({"merges": ["q z"]}, "its tokenizer can't be read"),
        ({"merges": ["q"]}, "its tokenizer can't be read"),
        ({"tokens": ["<s>"] * 100 + BPE["tokens"]}, "its tokenizer makes token 1"),
    ],
)
def test_tokenizers_of_another_kind_or_damaged_are_refused(folder, tmp_path, capsys, fields, message):
    pytest.importorskip("gguf")
    path = write_gguf(tmp_path / "small.gguf", reference(), tokenizer=BPE | fields)
    assert encode(folder, path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert error.count("\n") == 1
    assert not (folder / "text_feat.npy").exists()


def test_folder_without_a_tokenizer_is_refused(folder, tmp_path, capsys):
    reference().save_pretrained(tmp_path / "weights")
    assert encode(folder, tmp_path / "weights") == 2
    assert "tokenizer.model: tokenizer missing" in capsys.readouterr().err
    assert encode(folder, tmp_path / "none") == 2
    assert "none: no base weights" in capsys.readouterr().err
