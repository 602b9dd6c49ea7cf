"""Base weights into the model, adapters to and from disk, and files of the released program."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from llama.checkpoint import check_keys_and_shapes, copy_or_assign
from llama.HeLLM import HeLLM
from llama.parallel import mp_rank, shard, shard_dims, unshard
from llama.torch_file import is_dense_tensor
from utils.io.torch_files import load_versioned, save_with_checksum

FORMAT, VERSION, REQUIRED_KEYS = "HeLLM adapter", 2, {"settings": (), "tensors": ()}


def adapter_config(model: HeLLM) -> dict:
    """What an adapter depends on: sizes, switches, prompt; what shapes training alone and token room do not matter."""
    settings = asdict(model.args)
    training = ("dropout", "lora_dropout", "graph_dropout", "label_smoothing", "n_negatives", "compile", "recompute")
    for free in (*training, "max_seq_len", "multiple_of", "ffn_dim_multiplier"):
        del settings[free]
    # As numbers, because Meta's and Hugging Face's files state them differently for the same model.
    settings["n_kv_heads"], settings["ffn_dim"] = model.args.kv_heads, model.args.ffn_width
    settings["lora_targets"] = list(model.args.lora_targets)
    settings["n_items"] = model.n_items
    settings["graph_dim"] = model.graph_item_embedding.shape[1]
    settings["seq_dim"] = model.seq_item_embedding.shape[1]
    settings["instruct_ids"] = model.instruct_ids.tolist()
    settings["response_ids"] = model.response_ids.tolist()
    return settings


def adapter_parameters(model: HeLLM) -> dict[str, nn.Parameter]:
    """What an adapter file holds: everything trained, and the head, trained or not (it is random)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad or name == "score.weight"}


def adapter_tensors(model: HeLLM) -> dict[str, Tensor]:
    """The adapter's whole tensors on the CPU; a collective call where several processes share the model."""
    dims = shard_dims(model)
    return {name: unshard(p.detach(), dims[name]).cpu() for name, p in adapter_parameters(model).items()}


def check_finite_tensors(what: str, tensors: dict, like: dict[str, Tensor]) -> None:
    """Refuse what a file holds in place of tensors, or one that is stretched, not finite or not in our number format.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in tensors.items():
        dtype = like[name].dtype if name in like else torch.float32
        good = isinstance(name, str) and is_dense_tensor(tensor) and tensor.dtype == dtype and tensor.isfinite().all()
        if not good:
            expected = f"a whole tensor of {dtype}, all finite, is expected"
            raise ValueError(f"{what}: {name!r:.90}: {expected}; put back a copy, or make it again")


def assign_adapter(model: HeLLM, tensors: dict[str, Tensor], what: str) -> None:
    """Copy whole adapter tensors into the model, this process's slice of each; names and shapes must agree."""
    parameters, dims = adapter_parameters(model), shard_dims(model)
    check_finite_tensors(what, tensors, parameters)
    both = set(parameters) & set(tensors)
    parts = {name: shard(tensors[name], dims[name]) for name in both}
    shapes = {name: (parts[name].shape, parameters[name].shape) for name in sorted(both)}
    check_keys_and_shapes(what, set(tensors), set(parameters), shapes)
    copy_or_assign(model, parts, parameters)


def save_adapter(model: HeLLM, path: str | Path) -> None:
    """Save adapter and head with the settings they depend on; with several processes, all must call."""
    tensors = adapter_tensors(model)
    if mp_rank() == 0:
        content = {"format": FORMAT, "version": VERSION, "settings": adapter_config(model), "tensors": tensors}
        save_with_checksum(content, path)


def load_adapter(model: HeLLM, path: str | Path) -> None:
    """Read what `save_adapter` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, another format or version, a part missing, settings that differ, names, shapes or number
            formats that do not agree, a number that is not finite.
    """
    content = load_versioned(Path(path), FORMAT, VERSION, REQUIRED_KEYS)
    ours, theirs = adapter_config(model), content["settings"]
    differ = [f"{k} is {theirs.get(k)!s:.60} there, {ours.get(k)!s:.60} here" for k in ours if ours[k] != theirs.get(k)]
    if differ:
        raise ValueError(f"{path}: saved under other settings: {'; '.join(differ)}")
    assign_adapter(model, content["tensors"], str(path))
