"""Weights, tokenizers, adapters and training states that are damaged or of another kind: one line each.

The tables of what a header or a configuration may state are those of test_checkpoint.py and test_gguf.py.
"""

import json
import os
import re

import pytest
import torch

import train_HeLLM
from llama.checkpoint import open_checkpoint
from tests.support.bad_files import ANY_FILE, complaint, copied
from tests.support.small_data import command, write_dataset
from tests.support.small_gguf import write_gguf
from tests.support.small_llama import reference
from tests.support.small_model import SHAPE, small_hellm, tokenizer, write_meta

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
STATE, STATE_BEFORE, ADAPTER = (
    f"output/Small/MMHCL/tiny/{name}.pt" for name in ("training_state", "training_state_before", "best_adapter")
)
SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The small data, base weights of every layout, and what a run of an epoch has left."""
    place = tmp_path_factory.mktemp("template")
    write_dataset(place / "data")
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    state = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(place / "meta", state, SHAPE, 2)
    model = reference(n_kv_heads=4)
    model.save_pretrained(place / "hf")
    model.save_pretrained(place / "sharded", max_shard_size="20KB")
    write_gguf(place / "small.gguf", model)
    tokenizer(place / "meta" / "tokenizer.model")
    assert train_HeLLM.main(command(place, "--num_epochs", "1")) == 0
    (place / STATE_BEFORE).unlink()  # which would do instead
    return place


@pytest.fixture
def place(template, tmp_path):
    return copied(template, tmp_path / "place")


def weights(name, *more):
    """A run from some weights."""
    return lambda place: (
        train_HeLLM.main,
        command(place, "--model_name", str(place / name), "--no-train_base", "--target", "other", *more),
    )


def resume(place):
    return train_HeLLM.main, command(place, "--num_epochs", "1", "--resume")


READERS = {
    "meta/params.json": weights("meta"),
    "meta/consolidated.01.pth": weights("meta"),
    "meta/tokenizer.model": weights("meta", "--prompt", "alpaca"),
    "hf/config.json": weights("hf"),
    f"hf/{SAFETENSORS}": weights("hf"),
    f"sharded/{INDEX}": weights("sharded"),
    "sharded/model-00002-of-00008.safetensors": weights("sharded"),
    "small.gguf": weights("small.gguf"),
    STATE: resume,
    ADAPTER: resume,
}
# All shards are found without it; a run begins anew; another folder of weights.
LEGAL = {
    (f"sharded/{INDEX}", "missing"),
    (STATE, "missing"),
    ("small.gguf", "folder"),
}


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name in READERS for way in ANY_FILE if (name, way) not in LEGAL]
)
def test_any_file(place, capfd, name, way):
    damage, pattern = ANY_FILE[way]
    damage(place / name)
    if way == "unreadable" and os.access(place / name, os.R_OK):
        pytest.skip("root reads every file")
    line = complaint(place, capfd, *READERS[name](place))
    assert str((place / name).parent) in line
    assert re.search(pattern, line), line


def changed(**entries):
    """Damage that changes entries of a JSON file."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def text(content):
    return lambda path: path.write_text(content)


def tensors(change):
    """Damage that changes what a PyTorch file holds."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


def header(change=dict, length=None):
    """Damage that changes a safetensors header, or the length that it claims to have."""

    def damage(path):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        new = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        path.write_bytes((length or len(new)).to_bytes(8, "little") + new + content[8 + size :])

    return damage


def entry(**values):
    name = "model.layers.0.self_attn.q_proj.weight"
    return header(lambda entries: entries | {name: entries[name] | values})


DEEP, LONG = "[" * 100_000, "9" * 5000
PARAMS, CONFIG, SHARD = "meta/params.json", "hf/config.json", "meta/consolidated.01.pth"
NORM, COUNT = "norm.weight", "(an integer from 1 to"
BAD_ENTRY = "cut short or damaged (Error while deserializing header: invalid shape, data type, or offset for tensor"
CONTENTS = [
    (PARAMS, text(DEEP), "params.json: not JSON (maximum recursion depth"),
    (PARAMS, text('{"dim": ' + LONG + "}"), "params.json: not JSON (Exceeds the limit"),
    (PARAMS, text("[]"), "params.json: a JSON object is expected, found list; fetch it again"),
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
        f"hf/{SAFETENSORS}",
        header(length=2**62),
        "cut short or damaged (Error while deserializing header: header too large)",
    ),
    (
        f"hf/{SAFETENSORS}",
        lambda path: path.write_bytes((9).to_bytes(8, "little") + b"[" * 9),
        "cut short or damaged (Error while deserializing header: invalid JSON in header",
    ),
    (f"hf/{SAFETENSORS}", header(lambda entries: [*entries.items()]), "invalid JSON in header: invalid type: sequence"),
    (
        f"hf/{SAFETENSORS}",
        header(lambda entries: entries | {"a": 3}),
        "invalid JSON in header: invalid type: integer `3`",
    ),
    (
        f"hf/{SAFETENSORS}",
        header(lambda entries: entries | {"a": {"dtype": "F32"}}),
        "invalid JSON in header: missing field `shape`",
    ),
    (f"hf/{SAFETENSORS}", entry(data_offsets=[0, 9]), BAD_ENTRY),
    (f"hf/{SAFETENSORS}", entry(data_offsets=[-4096, 0]), "invalid value: integer `-4096`"),
    (f"hf/{SAFETENSORS}", entry(dtype="F128"), "unknown variant `F128`"),
    (f"hf/{SAFETENSORS}", entry(dtype="I32"), "q_proj.weight' has dtype I32; take weights in F64, F32, F16 or BF16"),
    (f"hf/{SAFETENSORS}", header(lambda entries: entries | {"\x1b[31m\n": {}}), "cut short or damaged"),
    (f"hf/{SAFETENSORS}", entry(shape=[10**12, 32]), BAD_ENTRY),
    (f"hf/{SAFETENSORS}", entry(shape=[-32, -32]), "invalid value: integer `-32`"),
    (f"hf/{SAFETENSORS}", entry(shape=[0, 10**30], data_offsets=[0, 0]), "floating point `1e+30`"),
    (f"hf/{SAFETENSORS}", entry(shape=[32.0, 32]), "floating point `32.0`"),
    (f"hf/{SAFETENSORS}", entry(shape=[1, 1024]), "q_proj.weight has shape (1, 1024) for 8 heads; fetch it again"),
    (f"hf/{SAFETENSORS}", entry(data_offsets=[2**60, 2**60 + 4096]), "invalid offset for tensor"),
    (f"sharded/{INDEX}", text("{}"), "weight_map, from tensor to file, is missing; fetch it again"),
    (f"sharded/{INDEX}", text(DEEP), "index.json: not JSON"),
    (f"sharded/{INDEX}", text('{"weight_map": {"x": "../../elsewhere.safetensors"}}'), "sharded/elsewhere.safetensors"),
    (f"sharded/{INDEX}", text('{"weight_map": {"x": ".."}}'), "a folder where a file belongs"),
    ("meta/tokenizer.model", lambda path: tokenizer(path, bos_id=-1), "has no begin-of-sequence token"),
    ("meta/tokenizer.model", tokenizer, "outside the vocabulary of 20"),
]


@pytest.mark.parametrize(("name", "damage", "message"), CONTENTS)
def test_content(place, capfd, name, damage, message):
    damage(place / name)
    line = complaint(place, capfd, *READERS[name](place))
    path = place / name
    assert message in line and (str(path.parent) in line or path.name in line)


@pytest.mark.parametrize("name", [STATE, ADAPTER])
@pytest.mark.parametrize("content", [torch.zeros(3), [], {}, {"format": 3}, {"format": []}])
def test_another_file_as_a_state_or_adapter(place, capsys, name, content):
    torch.save(content, place / name)
    program, argv = resume(place)
    capsys.readouterr()
    assert program(argv) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(place / name) in line


def test_sizes_behind_a_byte_order_mark(place):
    for name in ("meta/params.json", "hf/config.json"):
        expected, path = open_checkpoint((place / name).parent).shape, place / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert open_checkpoint(path.parent).shape == expected
