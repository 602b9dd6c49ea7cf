"""Base weights in Meta's and Hugging Face's layouts against the transformers library; adapter files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama.checkpoint import open_checkpoint
from tests.support.small_llama import LAYER, PARAMS, assert_same_hidden, load, meta_state, reference
from tests.support.small_model import histories, shards_of, small_hellm, wake, write_meta
from utils.io.torch_files import save_with_checksum
from utils.training.adapter_file import adapter_parameters, load_adapter, save_adapter


@pytest.fixture
def hugging_face(tmp_path):
    reference(n_kv_heads=4).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def meta(tmp_path):
    """Write two random shards in Meta's layout."""
    shape = {"tok_embeddings": (90, 32), "norm": (32,), "output": (90, 32)}
    sizes = {"wq": (32, 32), "wk": (16, 32), "wv": (16, 32), "wo": (32, 32), "w1": (96, 32), "w2": (32, 96)}
    sizes["w3"] = sizes["w1"]
    for layer in range(2):
        for name in LAYER:
            shape[f"layers.{layer}.{name}"] = sizes.get(name.split(".")[-1], (32,))
    return write_meta(tmp_path / "meta", {f"{n}.weight": torch.randn(s) for n, s in shape.items()}, PARAMS, 2)


@pytest.mark.parametrize(
    ("settings", "saving"),
    [
        ({}, {}),
        ({"n_kv_heads": 2}, {}),
        ({"tied": True}, {}),
        ({"theta": 500.0}, {}),
        ({"n_kv_heads": 2}, {"max_shard_size": "20KB"}),
    ],
    ids=["plain", "grouped", "tied", "theta", "sharded"],
)
def test_hugging_face_folder_equals_transformers(tmp_path, settings, saving):
    model = reference(**settings)
    model.save_pretrained(tmp_path / "hf", **saving)
    assert (len(list((tmp_path / "hf").glob("*.safetensors"))) > 1) == bool(saving)
    assert_same_hidden(load(tmp_path / "hf"), model)


@pytest.mark.parametrize("n_shards", [1, 2, 4])
@pytest.mark.parametrize("theta", [None, 500.0])
def test_meta_folder_equals_transformers(tmp_path, n_shards, theta):
    model = reference(n_kv_heads=4, theta=theta or 10000.0)
    params = PARAMS if theta is None else {**PARAMS, "rope_theta": theta}
    assert_same_hidden(load(write_meta(tmp_path / "meta", meta_state(model), params, n_shards)), model)


@pytest.mark.parametrize("layout", ["hugging_face", "meta"])
def test_bfloat16_base_keeps_float32_norms(request, layout):
    folder = request.getfixturevalue(layout)
    full, half = dict(load(folder).named_parameters()), dict(load(folder, torch.bfloat16).named_parameters())
    for name, p in half.items():
        assert p.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
        assert torch.equal(p, full[name].to(p.dtype)), name


@pytest.mark.parametrize("layout", ["hugging_face", "meta"])
def test_files_stay_mapped_only_if_tensors_are_used_without_conversion(request, layout):
    """A norm that stayed a view of its file would keep every page read from it in memory."""
    maps = Path("/proc/self/maps")
    folder = request.getfixturevalue(layout)
    if not maps.is_file():
        pytest.skip("the list of mapped files is Linux's")
    converted = load(folder, torch.bfloat16)
    assert str(folder) not in maps.read_text()
    unconverted = load(folder, torch.float32)
    assert (str(folder) in maps.read_text()) == (layout == "hugging_face")  # two shards are merged
    assert converted.norm.weight.equal(unconverted.norm.weight)


def test_missing_or_empty_folder_is_refused(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"{folder}: no base weights"):
            open_checkpoint(folder)
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="params.json without consolidated"):
        open_checkpoint(tmp_path)


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_truncated_safetensors_file_is_refused(hugging_face, share):
    cut(hugging_face / "model.safetensors", share)
    with pytest.raises(ValueError, match=r"model\.safetensors: cut short"):
        load(hugging_face)


def rewrite(folder, change):
    """Change the tensors of a folder's only safetensors file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_tensor_in_safetensors_is_refused(hugging_face):
    rewrite(hugging_face, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ValueError, match=r"missing layers\.1\.feed_forward\.w3\.weight"):
        load(hugging_face)


def test_unknown_tensor_in_safetensors_is_refused(hugging_face):
    rewrite(hugging_face, lambda tensors: tensors.update({"model.layers.0.surprise.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"model\.layers\.0\.surprise\.weight"):
        load(hugging_face)


@pytest.mark.parametrize("shape", [(), (0, 32), (32,), (24, 32)])
def test_query_rows_that_do_not_divide_into_heads_are_refused(hugging_face, shape):
    name = "model.layers.0.self_attn.q_proj.weight"
    rewrite(hugging_face, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: {name} has shape \({shape[0] if shape else ''}.* for 8 heads"
    ):
        load(hugging_face)


def test_missing_safetensors_shard_is_refused(tmp_path):
    reference().save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is linear"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"model_type": "mistral"}, "model_type is mistral"),
        ({"head_dim": 8}, "head_dim 8"),
    ],
)
def test_unsupported_hugging_face_config_is_refused(hugging_face, change, message):
    path = hugging_face / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load(hugging_face)


def test_unsupported_meta_rope_scaling_is_refused(meta):
    (meta / "params.json").write_text(json.dumps({**PARAMS, "vocab_size": -1, "use_scaled_rope": True}))
    with pytest.raises(ValueError, match="use_scaled_rope"):
        load(meta)


def test_meta_shards_that_disagree_are_refused(meta):
    path = meta / "consolidated.01.pth"
    shard = torch.load(path, weights_only=True)
    name = "layers.1.attention.wo.weight"
    torch.save({**shard, name: torch.zeros(33, 16)}, path)
    with pytest.raises(ValueError, match=rf"{name} differs in shape: \(32, 16\) in .*, \(33, 16\) in .*01\.pth"):
        load(meta)
    torch.save({key: tensor for key, tensor in shard.items() if key != name}, path)
    with pytest.raises(ValueError, match=rf"consolidated\.01\.pth: {name}"):
        load(meta)
    path.unlink()  # half of every split matrix
    with pytest.raises(ValueError, match="has 16 columns in each of 1 shards, dim is 32: download"):
        load(meta)


def test_unknown_tensor_in_meta_shards_is_refused(meta):
    for path in meta.glob("*.pth"):
        torch.save({**torch.load(path, weights_only=True), "surprise": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="unknown surprise"):
        load(meta)


@pytest.mark.parametrize("settings", [{}, {"train_score": True, "lora_targets": ("wq", "w2")}, {"train_base": True}])
def test_adapter_file_restores_the_scores(tmp_path, settings):
    saved = wake(small_hellm(1, **settings))
    save_adapter(saved, tmp_path / "adapter.pt")
    other = wake(small_hellm(1, **settings))
    with torch.no_grad():
        for p in adapter_parameters(other).values():
            p.add_(torch.randn_like(p))
    items = histories()
    assert not torch.allclose(other(items), saved(items), atol=1e-2)
    load_adapter(other, tmp_path / "adapter.pt")
    assert torch.equal(other(items), saved(items))
    assert [p.name for p in tmp_path.iterdir()] == ["adapter.pt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_r": 4}, "lora_r is 2 there, 4 here"),
        ({"adapter_len": 4}, "adapter_len is 3 there, 4 here"),
        ({"instruct": (1, 5, 8)}, r"instruct_ids is \[1, 5, 7\] there, \[1, 5, 8\] here"),
        ({"response": ()}, r"response_ids is \[1, 9\] there"),
        ({"lora_targets": ("w1",)}, "lora_targets is"),
        ({"n_kv_heads": 2}, "n_kv_heads is 4 there, 2 here"),
    ],
)
def test_adapter_of_other_settings_is_refused(tmp_path, settings, message):
    save_adapter(small_hellm(), tmp_path / "adapter.pt")
    with pytest.raises(ValueError, match=message):
        load_adapter(small_hellm(**settings), tmp_path / "adapter.pt")


def test_adapter_does_not_depend_on_how_weight_files_state_the_sizes(tmp_path):
    """Meta states n_kv_heads and the feed-forward width by a rule, Hugging Face as numbers: the same model."""
    saved = small_hellm(lora_dropout=0.5, max_seq_len=20)
    save_adapter(saved, tmp_path / "adapter.pt")
    other = small_hellm(n_kv_heads=4, ffn_dim=96, multiple_of=256)
    load_adapter(other, tmp_path / "adapter.pt")
    torch.testing.assert_close(other(histories()), saved.eval()(histories()))


def test_invalid_adapter_files_are_refused(tmp_path):
    model = small_hellm()
    path = tmp_path / "adapter.pt"
    with pytest.raises(FileNotFoundError, match=r"adapter\.pt"):
        load_adapter(model, path)
    save_adapter(model, path)
    content = torch.load(path, weights_only=True)
    tensors = {k: t for k, t in content["tensors"].items() if k != "score.weight"}
    refused = {
        r"missing score\.weight": {**content, "tensors": tensors},
        r"unknown surprise": {**content, "tensors": {**content["tensors"], "surprise": torch.zeros(1)}},
        r"score\.weight has shape": {**content, "tensors": {**tensors, "score.weight": torch.zeros(1)}},
        r"version 2, found \('HeLLM adapter', 99\)": {**content, "version": 99},
        r"not a HeLLM adapter of version 2, found": tensors,
        r"without tensors; ": {key: part for key, part in content.items() if key != "tensors"},
        r"without settings; ": {key: part for key, part in content.items() if key != "settings"},
    }
    for message, changed in refused.items():
        save_with_checksum(changed, path)
        with pytest.raises(ValueError, match=rf"adapter\.pt: .*{message}"):
            load_adapter(model, path)
    save_adapter(model, path)
    cut(path)
    with pytest.raises(ValueError, match=r"adapter\.pt: cut short"):
        load_adapter(model, path)


def test_small_shards_are_split_as_meta_splits_them():
    """Check the function that makes this file's shards: matrices are split, norms are complete in every shard."""
    state = {"layers.0.attention.wo.weight": torch.arange(8.0).view(2, 4), "norm.weight": torch.ones(2)}
    left, right = shards_of(state, 2)
    assert torch.equal(left["layers.0.attention.wo.weight"], torch.tensor([[0.0, 1.0], [4.0, 5.0]]))
    assert torch.equal(right["norm.weight"], state["norm.weight"])
