"""Damaged or invalid weights, tokenizers, adapters and training states: each is refused in one line.

tests/llama/test_checkpoint.py and test_gguf.py test which sizes and features a file may state.
"""

import json
import os
import re

import pytest
import torch

import train_HeLLM
from llama.checkpoint import open_checkpoint
from tests.support.bad_files import ANY_FILE, copy_template, error_line
from tests.support.small_data import command, write_dataset
from tests.support.small_llama import write_every_layout
from tests.support.small_model import tokenizer

pytest.importorskip("gguf", reason="the package gguf is not installed")
STATE = "output/Small/MMHCL/tiny/training_state.pt"
PREVIOUS_STATE = "output/Small/MMHCL/tiny/training_state_before.pt"
ADAPTER = "output/Small/MMHCL/tiny/best_adapter.pt"
PARAMS = "meta/params.json"
SHARD = "meta/consolidated.01.pth"
TOKENIZER = "meta/tokenizer.model"
CONFIG = "hf/config.json"
SAFETENSORS = "hf/model.safetensors"
INDEX = "sharded/model.safetensors.index.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Write the small data, base weights in every layout, and the files of a run of one epoch."""
    root = tmp_path_factory.mktemp("template")
    write_dataset(root / "data")
    write_every_layout(root, n_shards=2)
    tokenizer(root / TOKENIZER)
    assert train_HeLLM.main(command(root, "--num_epochs", "1")) == 0
    (root / PREVIOUS_STATE).unlink()  # which a run resumes from if the other state is damaged
    return root


@pytest.fixture
def root(template, tmp_path):
    return copy_template(template, tmp_path / "root")


def weights(name, *more):
    """Return a function from the folder to a run from these weights: a program and its arguments."""
    return lambda root: (
        train_HeLLM.main,
        command(root, "--model_name", str(root / name), "--no-train_base", "--target", "other", *more),
    )


def resume(root):
    return train_HeLLM.main, command(root, "--num_epochs", "1", "--resume")


READERS = {
    PARAMS: weights("meta"),
    SHARD: weights("meta"),
    TOKENIZER: weights("meta", "--prompt", "alpaca"),
    CONFIG: weights("hf"),
    SAFETENSORS: weights("hf"),
    INDEX: weights("sharded"),
    "sharded/model-00002-of-00008.safetensors": weights("sharded"),
    "small.gguf": weights("small.gguf"),
    STATE: resume,
    ADAPTER: resume,
}
ACCEPTED = {
    (INDEX, "missing"),  # the shards are found without it
    (STATE, "missing"),  # the run starts from the beginning
    ("small.gguf", "folder"),  # a folder of weights without files, which another test has
}


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name in READERS for way in ANY_FILE if (name, way) not in ACCEPTED]
)
def test_damaged_file_is_refused(root, capfd, name, way):
    damage, pattern = ANY_FILE[way]
    damage(root / name)
    if way == "unreadable" and os.access(root / name, os.R_OK):
        pytest.skip("root reads every file")
    line = error_line(root, capfd, *READERS[name](root))
    assert str((root / name).parent) in line
    assert re.search(pattern, line), line


def changed(**entries):
    """Return a function that changes entries of a JSON file."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def text(content):
    return lambda path: path.write_text(content)


def tensors(change):
    """Return a function that changes the content of a PyTorch file."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


def header(change=dict, length=None):
    """Return a function that changes a safetensors header, or the length that the file states for it."""

    def damage(path):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        new = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        path.write_bytes((length or len(new)).to_bytes(8, "little") + new + content[8 + size :])

    return damage


def entry(**values):
    """Return a function that changes the header's entry of one tensor."""
    name = "model.layers.0.self_attn.q_proj.weight"
    return header(lambda entries: entries | {name: entries[name] | values})


DEEP = "[" * 100_000
LONG = "9" * 5000
NORM = "norm.weight"
COUNT = "(an integer from 1 to"
BAD_ENTRY = "cut short or damaged (Error while deserializing header: invalid shape, data type, or offset for tensor"
CONTENTS = [
    (PARAMS, text(DEEP), "params.json: not JSON (maximum recursion depth"),
    (PARAMS, text('{"dim": ' + LONG + "}"), "params.json: not JSON (Exceeds the limit"),
    (PARAMS, text("[]"), "params.json: a JSON object is expected, found list; download it again"),
    (PARAMS, changed(dim="32"), f"params.json: dim is '32' {COUNT}"),
    (PARAMS, changed(dim=None), f"params.json: dim is None {COUNT}"),
    (PARAMS, changed(dim=10**12), f"params.json: dim is 1000000000000 {COUNT}"),
    (PARAMS, changed(n_layers=10**9), f"n_layers is 1000000000 {COUNT}"),
    (PARAMS, changed(n_layers=-2), f"n_layers is -2 {COUNT}"),
    (PARAMS, changed(n_heads=0), f"n_heads is 0 {COUNT}"),
    (PARAMS, changed(n_heads=True), f"n_heads is True {COUNT}"),
    (PARAMS, changed(n_heads=3), "32 columns do not divide into 3 heads of an even number of columns"),
    (PARAMS, changed(n_kv_heads=0), f"n_kv_heads is 0 {COUNT}"),
    (PARAMS, changed(multiple_of=0), f"multiple_of is 0 {COUNT}"),
    (PARAMS, changed(ffn_dim_multiplier=-1.0), "ffn_dim_multiplier is -1.0 (a number between 0 and inf is expected)"),
    (PARAMS, changed(norm_eps=float("nan")), "norm_eps is nan (a number between 0 and 1.0 is expected)"),
    (PARAMS, changed(rope_theta="1e4"), "rope_theta is '1e4' (a number"),
    (PARAMS, changed(dim=64), "tok_embeddings.weight has 16 columns in each of 2 shards, dim is 64"),
    (SHARD, tensors(lambda t: t[NORM]), "tensors by name are expected, found Tensor"),
    (SHARD, tensors(lambda t: [*t.values()]), "tensors by name are expected, found list"),
    (SHARD, tensors(lambda t: t | {3: t[NORM]}), "tensors by name are expected, found dict"),
    (SHARD, tensors(lambda t: t | {NORM: 3}), "'norm.weight' is not a dense floating-point tensor"),
    (
        SHARD,
        tensors(lambda t: t | {NORM: t[NORM].to(torch.int8)}),
        "'norm.weight' is not a dense floating-point tensor",
    ),
    (
        SHARD,
        tensors(lambda t: t | {NORM: torch.zeros(1).expand(10**12)}),
        "'norm.weight' is not a dense floating-point tensor",
    ),
    (
        SHARD,
        tensors(lambda t: t | {NORM: t[NORM].numpy()}),
        "it holds other objects than tensors, which are never loaded",
    ),
    (CONFIG, text(DEEP), "config.json: not JSON (maximum recursion depth"),
    (CONFIG, changed(hidden_size="32"), f"hidden_size is '32' {COUNT}"),
    (CONFIG, changed(hidden_size=2**40), f"hidden_size is 1099511627776 {COUNT}"),
    (CONFIG, changed(num_attention_heads=0), f"num_attention_heads is 0 {COUNT}"),
    (CONFIG, changed(num_attention_heads=8.0), f"num_attention_heads is 8.0 {COUNT}"),
    (CONFIG, changed(num_key_value_heads=3), "8 heads cannot share 3 key-value heads evenly"),
    (CONFIG, changed(num_hidden_layers=10**9), f"num_hidden_layers is 1000000000 {COUNT}"),
    (CONFIG, changed(vocab_size=None), f"vocab_size is None {COUNT}"),
    (CONFIG, changed(rms_norm_eps="1e-5"), "rms_norm_eps is '1e-5' (a number between 0 and 1.0 is expected)"),
    (CONFIG, changed(rope_parameters="linear"), "rope_parameters is 'linear' (an object is expected)"),
    (CONFIG, changed(rope_parameters={"rope_theta": [1]}), "rope_theta is [1] (a number"),
    (
        SAFETENSORS,
        header(length=2**62),
        "cut short or damaged (Error while deserializing header: header too large)",
    ),
    (
        SAFETENSORS,
        lambda path: path.write_bytes((9).to_bytes(8, "little") + b"[" * 9),
        "cut short or damaged (Error while deserializing header: invalid JSON in header",
    ),
    (SAFETENSORS, header(lambda entries: [*entries.items()]), "invalid JSON in header: invalid type: sequence"),
    (
        SAFETENSORS,
        header(lambda entries: entries | {"a": 3}),
        "invalid JSON in header: invalid type: integer `3`",
    ),
    (
        SAFETENSORS,
        header(lambda entries: entries | {"a": {"dtype": "F32"}}),
        "invalid JSON in header: missing field `shape`",
    ),
    (SAFETENSORS, entry(data_offsets=[0, 9]), BAD_ENTRY),
    (SAFETENSORS, entry(data_offsets=[-4096, 0]), "invalid value: integer `-4096`"),
    (SAFETENSORS, entry(dtype="F128"), "unknown variant `F128`"),
    (SAFETENSORS, entry(dtype="I32"), "q_proj.weight' has dtype I32; take weights in F64, F32, F16 or BF16"),
    (SAFETENSORS, header(lambda entries: entries | {"\x1b[31m\n": {}}), "cut short or damaged"),
    (SAFETENSORS, entry(shape=[10**12, 32]), BAD_ENTRY),
    (SAFETENSORS, entry(shape=[-32, -32]), "invalid value: integer `-32`"),
    (SAFETENSORS, entry(shape=[0, 10**30], data_offsets=[0, 0]), "floating point `1e+30`"),
    (SAFETENSORS, entry(shape=[32.0, 32]), "floating point `32.0`"),
    (SAFETENSORS, entry(shape=[1, 1024]), "q_proj.weight has shape (1, 1024) for 8 heads; download it again"),
    (SAFETENSORS, entry(data_offsets=[2**60, 2**60 + 4096]), "invalid offset for tensor"),
    (INDEX, text("{}"), "weight_map, from tensor to file, is missing; download it again"),
    (INDEX, text(DEEP), "index.json: not JSON"),
    (INDEX, text('{"weight_map": {"x": "../../elsewhere.safetensors"}}'), "sharded/elsewhere.safetensors"),
    (INDEX, text('{"weight_map": {"x": ".."}}'), "a folder where a file is expected"),
    (TOKENIZER, lambda path: tokenizer(path, bos_id=-1), "has no begin-of-sequence token"),
    (TOKENIZER, tokenizer, "outside the vocabulary of 20"),
]


@pytest.mark.parametrize(("name", "damage", "message"), CONTENTS)
def test_invalid_content_is_refused(root, capfd, name, damage, message):
    damage(root / name)
    line = error_line(root, capfd, *READERS[name](root))
    path = root / name
    assert message in line
    assert str(path.parent) in line or path.name in line


@pytest.mark.parametrize("name", [STATE, ADAPTER])
@pytest.mark.parametrize("content", [torch.zeros(3), [], {}, {"format": 3}, {"format": []}])
def test_other_file_in_place_of_state_or_adapter_is_refused(root, capsys, name, content):
    torch.save(content, root / name)
    program, argv = resume(root)
    capsys.readouterr()
    assert program(argv) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(root / name) in line


def test_byte_order_mark_is_skipped(root):
    for name in (PARAMS, CONFIG):
        path = root / name
        expected = open_checkpoint(path.parent).shape
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert open_checkpoint(path.parent).shape == expected
