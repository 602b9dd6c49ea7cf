"""Folders of base weights as people have them: what counts in them, and the advice where that is open."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import train_HeLLM
from llama.checkpoint import open_checkpoint
from llama.tokenizer import open_tokenizer
from tests.support.bad_files import error_line
from tests.support.small_data import command, write_dataset
from tests.support.small_gguf import write_gguf
from tests.support.small_llama import PARAMS, assert_same_hidden, load, meta_state, reference
from tests.support.small_model import tokenizer, write_meta
from tests.support.weight_folders import (
    TIKTOKEN,
    consolidated,
    hub_cache,
    legacy_save,
    remove,
    rows_in,
    split_gguf,
    state,
    tensor_by_two_names,
    tensor_in_two_meta_files,
    tensor_in_two_shards,
    write_config,
    write_shards,
    write_single,
    write_tokenizer_json,
)
from utils.training.prompt import prompt_ids

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models():
    """Return the model that counts, and another one of the same shape."""
    model = reference(n_kv_heads=4)
    other = reference(n_kv_heads=4, theta=10000.0)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    return model, other


def index_of_older_shards(folder, model, other):
    write_shards(folder, other, "model.safetensors", index="model.safetensors.index.json")
    write_single(folder, model)


def index_of_absent_shards(folder, model, other):
    index_of_older_shards(folder, model, other)
    for path in folder.glob("model-*"):
        path.unlink()


def two_series(folder, model, other):
    write_shards(folder, other, "zz_model.safetensors")
    write_shards(folder, model, "model.safetensors", n_shards=3)


def bin_beside_stray(folder, model, other):
    write_config(folder, model)
    torch.save(state(model), folder / "pytorch_model.bin")
    write_single(folder, other, "value_head.safetensors")


def single_and(name):
    """Return a function that writes the model that counts, and another one by some name."""

    def write(folder, model, other):
        write_single(folder, other, name)
        write_single(folder, model)

    return write


def shards_and_adapter(folder, model, other):
    write_shards(folder, model, "model.safetensors", index="model.safetensors.index.json")
    save_file({"base_model.model.layers.0.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


READ_AS_TRANSFORMERS = {
    "another model": single_and("other.safetensors"),
    "by name the last": single_and("z.safetensors"),
    "consolidated": single_and("consolidated.safetensors"),
    "adapter": single_and("adapter_model.safetensors"),
    "adapter and shards": shards_and_adapter,
    "index of older shards": index_of_older_shards,
    "index of absent shards": index_of_absent_shards,
    "bin beside a stray file": bin_beside_stray,
    "bin": lambda folder, model, _: (
        write_config(folder, model),
        torch.save(state(model), folder / "pytorch_model.bin"),
    ),
    "bin shards": lambda folder, model, _: write_shards(
        folder, model, "pytorch_model.bin", 3, torch.save, "pytorch_model.bin.index.json"
    ),
    "without the head": lambda folder, model, _: model.model.save_pretrained(folder),
}


@pytest.mark.parametrize("write", READ_AS_TRANSFORMERS.values(), ids=READ_AS_TRANSFORMERS.keys())
def test_files_count_as_in_transformers(tmp_path, models, write):
    write(tmp_path, *models)
    theirs = transformers.LlamaModel.from_pretrained(tmp_path)
    assert torch.equal(theirs.norm.weight, models[0].model.norm.weight)
    assert_same_hidden(load(tmp_path), models[0])


def params_beside(folder, model, _):
    write_single(folder, model)
    (folder / "params.json").write_text(json.dumps(PARAMS | {"dim": 64}))


def both_layouts(folder, model, other):
    write_meta(folder, meta_state(other), PARAMS)
    write_single(folder, model)


def mixed_prefixes(folder, model, _):
    """Write some names with and some without the leading `model.`."""
    write_config(folder, model)
    tensors = {name.removeprefix("model.") if "norm" in name else name: t for name, t in state(model).items()}
    save_file(tensors, folder / "model.safetensors")


def no_index(stem, suffix, write=save_file):
    return lambda folder, model, _: write_shards(folder, model, f"{stem}.{suffix}", 3, write)


READ = {
    "params.json beside Hugging Face files": params_beside,
    "both layouts": both_layouts,
    "some names without model.": mixed_prefixes,
    "shards without index": no_index("model", "safetensors"),
    "shards of another name": no_index("llama", "safetensors"),
    "two series": two_series,
    "bin shards without index": no_index("pytorch_model", "bin", torch.save),
    "legacy bin shards": no_index("pytorch_model", "bin", legacy_save),
    "one file of another name": lambda folder, model, _: write_single(folder, model, "weights.fp32.safetensors"),
    "consolidated-00001-of": consolidated("consolidated-{after:05}-of-{n:05}.pth", 2),
    "consolidated-00000": consolidated("consolidated-{number:05}.pth", 2),
    "consolidated-00001": consolidated("consolidated-{after:05}.pth", 2),
    "consolidated-00001-of, whole": consolidated("consolidated-{after:05}-of-{n:05}.pth", 3, whole=True),
    "consolidated safetensors": consolidated("consolidated-{after:05}-of-{n:05}.safetensors", 3, save_file, whole=True),
    "consolidated.safetensors": consolidated("consolidated.safetensors", 1, save_file),
    "consolidated.pth": consolidated("consolidated.pth", 1),
    "head_dim and hidden_dim stated": lambda folder, model, _: write_meta(
        folder,
        meta_state(model),
        {**PARAMS, "head_dim": 4, "hidden_dim": 96, "multiple_of": 256, "sliding_window": 4096},
    ),
    "legacy pth": consolidated("consolidated.{number:02}.pth", 2, legacy_save),
}


@pytest.mark.parametrize("write", READ.values(), ids=READ.keys())
def test_folder_is_read(tmp_path, models, write):
    write(tmp_path / "weights", *models)
    assert_same_hidden(load(tmp_path / "weights"), models[0])


def objects_in_bin(folder, model, _):
    write_config(folder, model)
    torch.save({"model.norm.weight": Path("x")}, folder / "pytorch_model.bin")


def dangling_link(folder, model, other):
    write_single(folder, other, "other.safetensors")
    (folder / "model.safetensors").symlink_to(folder / "gone")


REFUSED = {
    "tensor in two shards": (tensor_in_two_shards, "is in model-00001-of-00002.safetensors, too; remove the file"),
    "tensor by two names": (tensor_by_two_names, "norm.weight' is in model.safetensors, too; remove"),
    "tensor in two of Meta's files": (tensor_in_two_meta_files, "is not in all of the 2 shards; download them again"),
    "two totals": (
        lambda folder, model, other: [
            write_shards(folder, m, "model.safetensors", n) for n, m in ((2, model), (3, other))
        ],
        "shards of several models, model-00001-of-00002.safetensors and model-00001-of-00003.safetensors; remove",
    ),
    "two stray files": (
        lambda folder, *both: [write_single(folder, m, f"{n}.safetensors") for n, m in zip("ab", both, strict=True)],
        "several safetensors files, a.safetensors, b.safetensors: give the one that counts the name model.safetensors",
    ),
    "shard missing": (remove("model-*", no_index("model", "safetensors")), "2 of the 3 shards of model; download"),
    "bin shard missing": (
        remove("*.bin", no_index("pytorch_model", "bin", torch.save)),
        "2 of the 3 shards of pytorch",
    ),
    "indexed shard missing": (
        remove("model-*", shards_and_adapter),
        "00001-of-00002.safetensors: missing, and model.safe",
    ),
    "adapter alone": (remove("model.safetensors", single_and("adapter_model.safetensors")), "merge it into its base"),
    "no config.json": (remove("config.json", single_and("b.safetensors")), "without config.json; download it"),
    "no params.json": (remove("params.json", consolidated("consolidated.pth", 1)), "without params.json; download it"),
    "two sets of Meta's": (
        lambda folder, model, other: [
            consolidated(form, 1)(folder, model, other) for form in ("consolidated.00.pth", "consolidated.pth")
        ],
        "two sets of weights, consolidated.00.pth and consolidated.pth; remove",
    ),
    "Meta's first file missing": (
        remove("consolidated*", consolidated("consolidated-{after:05}-of-{n:05}.pth", 2)),
        "consolidated file 1 of 2 is missing; download it",
    ),
    "objects in a bin": (objects_in_bin, "holds other objects than tensors, which are never loaded"),
    "one of Llama-3's shards": (rows_in(2, 1, 90), "has 45 rows in 1 shards, vocab_size is 90: download the missing"),
    "two of Llama-3's shards": (rows_in(3, 2, 90), "has 60 rows in 2 shards, vocab_size is 90: download the missing"),
    "link to a file that is gone": (dangling_link, "model.safetensors"),
    "Git LFS": (
        lambda folder, model, _: (
            write_config(folder, model),
            (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ),
        "model.safetensors: Git LFS's note of where the file is, not the file; download it with git lfs pull",
    ),
    "short window": (
        lambda folder, model, _: (
            write_single(folder, model),
            (folder / "config.json").write_text(json.dumps({**model.config.to_dict(), "sliding_window": 1024})),
        ),
        "sliding_window is 1024 (none, or 2048 and more, is supported)",
    ),
    "head_dim of another model": (
        lambda folder, model, _: write_meta(folder, meta_state(model), {**PARAMS, "head_dim": 8}),
        "head_dim 8 is not dim / n_heads",
    ),
    "original below": (
        lambda folder, model, other: (
            folder.mkdir(),
            consolidated("consolidated.00.pth", 1)(folder / "original", model, other),
        ),
        "original has some: give that path",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    write_dataset(root / "data")
    return root


def refusal(data, capsys, weights, *more):
    """Return the line in which a run refuses base weights."""
    argv = command(data, "--model_name", str(weights), "--no-train_base", *more)
    return error_line(data, capsys, train_HeLLM.main, argv)


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_folder_is_refused_in_one_line(tmp_path, models, data, capsys, write, message):
    write(tmp_path / "weights", *models)
    line = refusal(data, capsys, tmp_path / "weights")
    assert message in line
    assert str(tmp_path / "weights") in line


@pytest.mark.parametrize("links", [True, False])
def test_the_only_snapshot_of_a_hub_cache_is_read(tmp_path, models, links):
    folder = hub_cache(tmp_path / "hub", models[0], links=links)
    (folder / "snapshots" / "0old").mkdir()  # a revision of which the settings alone were fetched
    (folder / "snapshots" / "0old" / "config.json").write_text("{}")
    tokenizer(folder / "snapshots" / "1f3c" / "tokenizer.model")
    for path in (folder, folder / "snapshots", tmp_path / "hub", tmp_path):
        assert_same_hidden(load(path), models[0])
        assert prompt_ids("bos", path) == ([1], [1])
        assert len(prompt_ids("alpaca", path)[0]) > 9


def test_several_snapshots_of_a_hub_cache_are_named(tmp_path, models, data, capsys):
    folder = hub_cache(tmp_path, models[0], ("1f3c", "2a2b"))
    line = refusal(data, capsys, folder)
    assert "several snapshots of weights, snapshots/1f3c, snapshots/2a2b: give the path of one of them" in line


def test_split_gguf_is_read_from_its_folder_or_any_part(tmp_path, models):
    parts = split_gguf(tmp_path / "gguf", models[0])
    for path in (tmp_path / "gguf", parts[0], parts[2]):
        assert_same_hidden(load(path), models[0])
        assert prompt_ids("bos", path) == ([7], [7])


def test_split_gguf_that_lacks_a_part_or_its_names_is_refused(tmp_path, models, data, capsys):
    parts = split_gguf(tmp_path / "gguf", models[0])
    renamed = parts[1].rename(tmp_path / "second.gguf")
    for path in (tmp_path / "gguf", parts[0]):
        assert "gguf: 2 of the 3 shards of small; download those that are missing" in refusal(data, capsys, path)
    line = refusal(data, capsys, renamed)
    assert "one of 3 parts; download all of them (-00001-of-00003.gguf and so on), or make one file" in line
    shutil.copy(parts[0], parts[1])
    assert "small-00002-of-00003.gguf: one of 3 parts" in refusal(data, capsys, parts[0])


def test_gguf_window_longer_than_any_history_is_accepted(tmp_path, models):
    pytest.importorskip("gguf")
    more = {"attention.sliding_window": 4096, "rope.scaling.type": "linear", "rope.scaling.factor": 1.0}
    path = write_gguf(tmp_path / "small.gguf", models[0], change=lambda fields, _: fields.update(more))
    assert_same_hidden(load(path), models[0])


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"bos_token_id": 0}, 0), ({"bos_token_id": 89}, 89), ({"bos_token_id": ...}, 1)],
    ids=["0", "89", "absent"],
)
def test_begin_token_is_the_one_of_the_config(tmp_path, models, config, expected):
    write_single(tmp_path, models[0])
    settings = models[0].config.to_dict() | config
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))
    assert prompt_ids("bos", tmp_path) == ([expected], [expected])


@pytest.mark.parametrize("token", [None, 90, -1, [1, 2], True, "1"], ids=str)
def test_begin_token_outside_the_vocabulary_is_refused(tmp_path, models, data, capsys, token):
    write_single(tmp_path, models[0])
    (tmp_path / "config.json").write_text(json.dumps(models[0].config.to_dict() | {"bos_token_id": token}))
    line = refusal(data, capsys, tmp_path, "--prompt", "bos")
    assert f"config.json: bos_token_id is {token!r} (an integer below 90" in line
    assert line.endswith("or take --prompt none\n")


def test_begin_token_of_metas_layout_is_its_tokenizers(tmp_path, models):
    folder = write_meta(tmp_path / "meta", meta_state(models[0]), PARAMS)
    assert prompt_ids("bos", folder) == ([1], [1])  # as LLaMA-2
    tokenizer(folder / "tokenizer.model", bos_id=0, unk_id=1)
    assert prompt_ids("bos", folder) == ([0], [0])
    table = torch.zeros(128256, 2)
    llama_3 = {"dim": 2, "n_layers": 1, "n_heads": 1, "norm_eps": 1e-5}
    folder = write_meta(tmp_path / "llama3", {"tok_embeddings.weight": table}, llama_3)
    assert prompt_ids("bos", folder) == ([128000], [128000])


def test_tokenizer_one_folder_up_is_found_and_the_nearer_counts(tmp_path):
    weights = tmp_path / "7B"
    weights.mkdir()
    tokenizer(tmp_path / "tokenizer.model")
    assert prompt_ids("alpaca", weights)[0][0] == 1
    write_tokenizer_json(weights / "tokenizer.json")
    assert len(prompt_ids("alpaca", weights)[1]) == len("\n### Response:\n")
    tokenizer(weights / "tokenizer.model", bos_id=0, unk_id=1)
    assert prompt_ids("alpaca", weights)[0][0] == 0


def test_metas_tokenizer_of_llama_3_gives_way_to_tokenizer_json(tmp_path, data, capsys, models):
    weights = tmp_path / "original"
    write_meta(weights, meta_state(models[0]), PARAMS)
    (weights / "tokenizer.model").write_text(TIKTOKEN)
    line = refusal(data, capsys, weights, "--prompt", "alpaca")
    assert "tokenizer.model: Llama-3's tokenizer in Meta's own form, which is not read; put tokenizer.json" in line
    assert "or take --prompt none" in line
    write_tokenizer_json(tmp_path / "tokenizer.json")
    assert open_tokenizer(weights)[1] == 0


def test_tokenizer_that_is_missing_or_needs_a_package_names_prompt_none(tmp_path, models, data, capsys, monkeypatch):
    write_single(tmp_path / "weights", models[0])
    line = refusal(data, capsys, tmp_path / "weights", "--prompt", "alpaca")
    assert "tokenizer.model: tokenizer missing" in line
    assert "or take --prompt none" in line
    path = tmp_path / "weights" / "tokenizer.json"
    path.write_text("{}")
    assert "not a tokenizer of the package tokenizers" in refusal(data, capsys, path.parent, "--prompt", "alpaca")
    write_tokenizer_json(path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    line = refusal(data, capsys, path.parent, "--prompt", "alpaca")
    assert (
        "tokenizer.json: reading it needs the package tokenizers: pip install tokenizers; or take --prompt none" in line
    )


def test_legacy_file_is_read_once(tmp_path, models, monkeypatch):
    """It cannot be mapped: reading it for every group of parameters would take as long as 32 files."""
    write_config(tmp_path, models[0])
    legacy_save(state(models[0]), tmp_path / "pytorch_model.bin")
    n_reads = 0
    read = torch.load

    def count(*args, **settings):
        nonlocal n_reads
        n_reads += 1
        return read(*args, **settings)

    monkeypatch.setattr(torch, "load", count)
    assert open_checkpoint(tmp_path).names
    load(tmp_path)
    assert n_reads == 3  # to list the names, to build the model, to load it
