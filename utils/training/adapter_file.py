"""Adapter files: everything that fine-tuning has trained, and the settings that it depends on."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from llama.checkpoint import check_keys_and_shapes, copy_or_assign
from llama.HeLLM import HeLLM
from llama.parallel import mp_rank, shard, shard_dims, unshard
from llama.torch_file import is_dense_tensor
from utils.io.torch_files import RESTORE_HINT, load_versioned, save_with_checksum

FORMAT = "HeLLM adapter"
VERSION = 2
REQUIRED_PARTS = {"settings": (), "tensors": ()}
# Only training depends on them; max_seq_len is room for tokens, and ffn_dim stands for the last two.
FREE_SETTINGS = ("dropout", "lora_dropout", "graph_dropout", "label_smoothing", "n_negatives", "compile", "recompute")
FREE_SETTINGS += ("max_seq_len", "multiple_of", "ffn_dim_multiplier")
TABLE_WIDTHS = ("graph_dim", "seq_dim", "feature_dim")
ADDED_SETTINGS = {  # what files of earlier versions lack
    "feature_input": False,
    "rope_factor": 1.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_context": 8192,
}


def adapter_config(model: HeLLM) -> dict:
    """Return the settings that an adapter depends on: sizes, switches and prompt, without `FREE_SETTINGS`."""
    config = asdict(model.args)
    for name in FREE_SETTINGS:
        del config[name]
    # As numbers, because Meta's and Hugging Face's files state them differently for the same model.
    config["n_kv_heads"] = model.args.kv_heads
    config["ffn_dim"] = model.args.ffn_width
    config["lora_targets"] = list(model.args.lora_targets)
    config["n_items"] = model.n_items
    widths = [table.shape[1] for table in model.tables]
    config |= {name: width for name, width in zip(TABLE_WIDTHS, widths, strict=True) if width}  # 0: not read
    config["instruct_ids"] = model.instruct_ids.tolist()
    config["response_ids"] = model.response_ids.tolist()
    return config


def adapter_parameters(model: HeLLM) -> dict[str, Tensor]:
    """Return what an adapter file holds: all trained parameters, the head even if it stays random, reduced features.

    Reduced features are kept because another machine may round, and so turn, the last of their columns otherwise.
    """
    kept = {name: p for name, p in model.named_parameters() if p.requires_grad or name == "score.weight"}
    if model.args.feature_input:
        kept["feature_embedding"] = model.feature_embedding
    return kept


def adapter_tensors(model: HeLLM) -> dict[str, Tensor]:
    """Return the adapter's unsharded tensors on the CPU; a collective call, if processes share the model."""
    dims = shard_dims(model)
    return {name: unshard(p.detach(), dims.get(name)).cpu() for name, p in adapter_parameters(model).items()}


def check_finite_tensors(source: str, tensors: dict, parameters: dict[str, Tensor]) -> None:
    """Check that everything in a dictionary from a file is a dense, finite tensor of the model's dtype.

    Args:
        source: what the message begins with, the file's path for instance.
        tensors: names and values from the file, of any type.
        parameters: the model's tensors; a name that is not among them must be float32.

    Raises:
        ValueError: one is not; the message names the first.
    """
    for name, tensor in tensors.items():
        dtype = parameters[name].dtype if name in parameters else torch.float32
        is_typed = isinstance(name, str) and is_dense_tensor(tensor) and tensor.dtype == dtype
        if not is_typed or not tensor.isfinite().all():
            expected = f"a dense tensor of {dtype}, all finite, is expected"
            raise ValueError(f"{source}: {name!r:.90}: {expected}; {RESTORE_HINT}")


def assign_adapter(model: HeLLM, tensors: dict[str, Tensor], source: str) -> None:
    """Write unsharded adapter tensors into the model, this process's slice of each.

    Args:
        model: the model.
        tensors: name to tensor, for all of `adapter_parameters`.
        source: what an error message begins with, the file's path for instance.

    Raises:
        ValueError: names, shapes or dtypes differ, or a value is not finite.
    """
    parameters = adapter_parameters(model)
    check_finite_tensors(source, tensors, parameters)
    dims = shard_dims(model)
    known = {name: shard(tensor, dims.get(name)) for name, tensor in tensors.items() if name in parameters}
    shapes = {name: (known[name].shape, parameters[name].shape) for name in sorted(known)}
    check_keys_and_shapes(source, set(tensors), set(parameters), shapes)
    copy_or_assign(model, known, parameters)


def save_adapter(model: HeLLM, path: str | Path) -> None:
    """Save the adapter with the settings that it depends on; a collective call, if processes share the model."""
    tensors = adapter_tensors(model)
    if mp_rank() == 0:
        content = {"format": FORMAT, "version": VERSION, "settings": adapter_config(model), "tensors": tensors}
        save_with_checksum(content, path)


def load_adapter(model: HeLLM, path: str | Path) -> None:
    """Load an adapter that `save_adapter` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another format or version, lacks a part, or its settings, names, shapes or dtypes
            differ from the model's, or a value is not finite.
    """
    content = load_versioned(Path(path), FORMAT, VERSION, REQUIRED_PARTS)
    saved = ADDED_SETTINGS | content["settings"]
    differences = [
        f"{name} is {saved.get(name)!s:.60} there, {value!s:.60} here"
        for name, value in adapter_config(model).items()
        if value != saved.get(name)
    ]
    if differences:
        raise ValueError(f"{path}: saved under other settings: {'; '.join(differences)}")
    assign_adapter(model, content["tensors"], str(path))
