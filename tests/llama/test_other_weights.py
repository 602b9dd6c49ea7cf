"""Folders of weights that are quantised, incomplete, of another model, or given by one of their files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama.checkpoint import open_checkpoint
from tests.support.bad_files import REMEDY
from tests.support.small_llama import assert_same_hidden, load, reference


@pytest.fixture(scope="module")
def model():
    return reference(n_kv_heads=4)


@pytest.fixture
def folder(tmp_path, model):
    model.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def refusal(path):
    """Return the line in which base weights are refused; it names the path and says what to do."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(path)
    line = str(error.value)
    assert str(path) in line
    assert REMEDY.search(line), line
    assert "\n" not in line
    return line


METHODS = ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "hqq", "mxfp4"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantised_weights_are_refused_by_name(folder, key, method):
    edit_config(folder, **{key: {"quant_method": method, "bits": 4}})
    edit_tensors(folder, lambda tensors: tensors.update(x=torch.zeros(2, dtype=torch.uint8)))
    assert f"quantization_config is {method} (weights that are not quantised are supported)" in refusal(folder)


@pytest.mark.parametrize("value", [None, {}])
def test_no_quantisation_may_be_stated(folder, model, value):
    edit_config(folder, quantization_config=value)
    assert_same_hidden(load(folder), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_read(folder, dtype):
    transformers = pytest.importorskip("transformers")
    edit_tensors(folder, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    assert_same_hidden(load(folder), transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def more_layers(folder):
    edit_config(folder, num_hidden_layers=3)


def fewer_layers(folder):
    edit_config(folder, num_hidden_layers=1)


def other_heads(folder):
    edit_config(folder, num_key_value_heads=8)


def longer_vocabulary(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"model.embed_tokens.weight": torch.zeros(96, 32)}))


def no_table(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))


@pytest.mark.parametrize("damage", [more_layers, fewer_layers, other_heads, longer_vocabulary, no_table])
def test_a_config_of_another_model_is_named_with_the_way_out(folder, damage):
    damage(folder)
    assert "the sizes that are stated are another model's; download all files of one model again" in refusal(folder)


@pytest.mark.parametrize("other", [None, "model.safetensors.incomplete", "tf_model.h5", "model.onnx", "model.pt"])
def test_a_config_alone_asks_for_its_weights(folder, other):
    (folder / "model.safetensors").unlink()
    if other:
        (folder / other).write_text("x")
    assert "config.json without its weights; download model.safetensors" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_file_of_a_folder_names_the_folder(folder, name):
    assert f"give the folder, {folder}" in refusal(folder / name)
    assert open_checkpoint(folder).names


def test_a_checkpoint_around_the_weights_is_called_that(folder, model):
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": model.state_dict(), "epoch": torch.ones(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a training's checkpoint, 'state_dict' is a dictionary; save the base"):
        load(folder)
