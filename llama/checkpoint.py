"""Base weights into the model, adapters to and from disk, and files of the released program."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from llama.files import Sealing, check_seal, told_when_full
from llama.HeLLM import HeLLM, base_parameters
from llama.model import Transformer
from llama.parallel import gather_parts, local_part, mp_rank, partition_dims
from llama.weight_files import UNUSED, is_dense, load_file, open_folder

FORMAT, VERSION, PARTS = "HeLLM adapter", 2, {"settings": (), "tensors": ()}
GROUPS = 32  # parameters are read in this many groups; the files' pages are given back after each


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make tensor the parameter called name, without a copy; whether it is trained stays as it was."""
    owner = module.get_submodule(name.rpartition(".")[0])
    old = getattr(owner, name.rpartition(".")[2])
    setattr(owner, name.rpartition(".")[2], nn.Parameter(tensor, requires_grad=old.requires_grad))


def compare_names(what: str, found: set[str], expected: set[str], shapes: dict[str, tuple] | None = None) -> None:
    """Refuse missing and unknown names, and wrong shapes (name: (found, expected)), all in one message.

    Raises:
        ValueError: listing them.
    """
    problems = [
        f"{kind} {', '.join(sorted(names)[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for kind, names in (("missing", expected - found), ("unknown", found - expected))
        if names
    ]
    for name, (is_, should) in (shapes or {}).items():
        if tuple(is_) != tuple(should):
            problems.append(f"{name} has shape {tuple(is_)}, the model {tuple(should)}")
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")


def load_base(
    transformer: Transformer, folder: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """Assign the base weights of a Meta or Hugging Face folder or a GGUF file, this process's slice of each.

    Matrices become `dtype`, norms float32. Whole matrices that need no conversion stay mapped to the file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is missing, unknown or of another shape.
    """
    files = open_folder(folder)
    wanted = {name: p for name, p in transformer.named_parameters() if ".lora." not in name}
    compare_names(str(folder), files.names - set(UNUSED), set(wanted))
    # By kind rather than by layer: a group that is copied as a whole keeps no page of the files.
    dims, names = partition_dims(transformer), sorted(wanted, key=lambda name: name.split(".")[::-1])
    size = -(-len(names) // GROUPS)
    for first in range(0, len(names), size):
        read = files.reader(dims)
        for name in names[first : first + size]:
            whole = read(name)
            tensor = local_part(whole, dims[name])
            compare_names(str(folder), set(), set(), {name: (tensor.shape, wanted[name].shape)})
            # A norm or a slice that stayed a view would keep all of its file's pages, or the whole tensor, in memory.
            norm = tensor.ndim == 1
            tensor = tensor.to(device, torch.float32 if norm else dtype, copy=norm or tensor is not whole)
            assign(transformer, name, tensor.contiguous())
        del read, whole, tensor


def adapter_settings(model: HeLLM) -> dict:
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
    dims = partition_dims(model)
    return {name: gather_parts(p.detach(), dims[name]).cpu() for name, p in adapter_parameters(model).items()}


def check_tensors(what: str, tensors: dict, like: dict[str, Tensor]) -> None:
    """Refuse what a file holds in place of tensors, or one that is stretched, not finite or not in our number format.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in tensors.items():
        dtype = like[name].dtype if name in like else torch.float32
        good = isinstance(name, str) and is_dense(tensor) and tensor.dtype == dtype and tensor.isfinite().all()
        if not good:
            expected = f"a whole tensor of {dtype}, all finite, is expected"
            raise ValueError(f"{what}: {name!r:.90}: {expected}; put back a copy, or make it again")


def assign_adapter(model: HeLLM, tensors: dict[str, Tensor], what: str) -> None:
    """Copy whole adapter tensors into the model, this process's slice of each; names and shapes must agree."""
    parameters, dims = adapter_parameters(model), partition_dims(model)
    check_tensors(what, tensors, parameters)
    both = set(parameters) & set(tensors)
    parts = {name: local_part(tensors[name], dims[name]) for name in both}
    shapes = {name: (parts[name].shape, parameters[name].shape) for name in sorted(both)}
    compare_names(what, set(tensors), set(parameters), shapes)
    _copy_or_assign(model, parts, parameters)


@torch.no_grad()
def _copy_or_assign(model: HeLLM, parts: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        if targets[name].is_meta:
            assign(model, name, part.clone())
        else:
            targets[name].copy_(part)


def save_atomically(content: dict | Tensor, path: str | Path, before: Path | None = None) -> None:
    """Write a PyTorch file, sealed with a checksum, beside its place and move it there: no reader sees half of it.

    Args:
        before: where the file that it replaces goes, if that is to be kept.

    Raises:
        Unwritten: the disk is full; what was there is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with told_when_full(path, temporary, sum(t.nbytes for t in tree_leaves(content) if isinstance(t, Tensor))):
        with temporary.open("wb") as file:
            sealing = Sealing(file)
            torch.save(content, sealing)
            sealing.seal()
        if before and path.exists():
            path.replace(before)
        temporary.replace(path)


def load_sealed(path: Path):
    """Read back what `save_atomically` wrote, its checksum tried first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged (Damaged).
    """
    check_seal(path)
    return load_file(path)


def load_saved(path: Path, form: str, version: int, parts: dict[str, Iterable[str]] | None = None) -> dict:
    """Read back a dictionary that `save_atomically` wrote.

    Args:
        parts: keys that it must have, to the keys of what is there, if that is a dictionary with some of its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged (Damaged), of another format or version, without some of the parts, or other ones.
    """
    content, parts = load_sealed(path), parts or {}
    kind = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if kind != (form, version):
        raise ValueError(f"{path}: not a {form} of version {version}, found {kind}")
    lost = [name for name in parts if name not in content]
    if not lost and (odd := [name for name in parts if not isinstance(content[name], dict)]):
        raise ValueError(f"{path}: {', '.join(odd)}: names with values are expected; put back a copy, or make it again")
    lost = lost or [f"{name}.{key}" for name, keys in parts.items() for key in keys if key not in content[name]]
    if lost:
        raise ValueError(f"{path}: without {', '.join(lost)}; put back a copy, or make it again")
    try:
        json.dumps(content.get("settings"))
    except (ValueError, TypeError, RecursionError) as error:
        what = f"settings: words and numbers are expected ({error})"
        raise ValueError(f"{path}: {what}; put back a copy, or make it again") from error
    return content


def save_adapter(model: HeLLM, path: str | Path) -> None:
    """Save adapter and head with the settings they depend on; with several processes, all must call."""
    tensors = adapter_tensors(model)
    if mp_rank() == 0:
        content = {"format": FORMAT, "version": VERSION, "settings": adapter_settings(model), "tensors": tensors}
        save_atomically(content, path)


def load_adapter(model: HeLLM, path: str | Path) -> None:
    """Read what `save_adapter` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, another format or version, a part missing, settings that differ, names, shapes or number
            formats that do not agree, a number that is not finite.
    """
    content = load_saved(Path(path), FORMAT, VERSION, PARTS)
    ours, theirs = adapter_settings(model), content["settings"]
    differ = [f"{k} is {theirs.get(k)!s:.60} there, {ours.get(k)!s:.60} here" for k in ours if ours[k] != theirs.get(k)]
    if differ:
        raise ValueError(f"{path}: saved under other settings: {'; '.join(differ)}")
    assign_adapter(model, content["tensors"], str(path))


RELEASED = {  # our name or its beginning -> the released one, where they differ
    "graph_item_embedding": "item_embedding.weight",
    "seq_item_embedding": "item_embedding_sequential.weight",
    "graph_adapter.prefix_key": "prefix_adapter.prefix_keys",
    "graph_adapter.prefix_value": "prefix_adapter.prefix_values",
    "graph_adapter.norm.key.": "gnn_global_key_norm.",
    "graph_adapter.norm.value.": "gnn_global_value_norm.",
    "graph_adapter.norm_pre.key.": "gnn_global_key_norm_pre.",
    "graph_adapter.norm_pre.value.": "gnn_global_value_norm_pre.",
    "graph_adapter.bridge.key.": "gnn_global_key.",
    "graph_adapter.bridge.value.": "gnn_global_value.",
    "item_projector.": "gnn_input_item_proj.",
    "llama.": "",
}
RELEASED_UNUSED = {"user_embedding.weight"}  # created by the released program, never read


def released_name(name: str) -> str:
    """The released program's name of our parameter or table."""
    if ".lora." in name:  # llama.layers.0.feed_forward.w1.lora.down
        owner, target, _, which = name.removeprefix("llama.").rsplit(".", 3)
        return f"{owner}.lora_{target}.lora_{which}.weight"
    for ours, theirs in RELEASED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def load_released(model: HeLLM, state: dict[str, Tensor], adapter_only: bool = False) -> None:
    """Take over weights of the released program.

    Args:
        model: of the same sizes, with every part that the released model has.
        state: released parameter name to whole tensor: base, head, tables, adapters, LoRA.
        adapter_only: state is a saved adapter, which holds neither base nor head nor tables (SPEC.md section 3,
            departure 2): those stay as they are in the model.

    Raises:
        ValueError: missing or unknown names, or shapes that differ, listed.
    """
    tables = {name: getattr(model, name) for name in ("graph_item_embedding", "seq_item_embedding")}
    ours = {**dict(model.named_parameters()), **tables}
    if adapter_only:
        kept = {f"llama.{name}" for name in base_parameters(model)} | {"score.weight", *tables}
        ours = {name: tensor for name, tensor in ours.items() if name not in kept}
    theirs = {released_name(name): name for name in ours}
    dims, parts, shapes = partition_dims(model), {}, {}
    for released, name in theirs.items():
        if released in state:
            tensor = state[released].squeeze(0) if name.startswith("graph_adapter.prefix_") else state[released]
            parts[name] = local_part(tensor, dims.get(name))
            shapes[released] = (parts[name].shape, ours[name].shape)
    compare_names("released state", set(state) - RELEASED_UNUSED, set(theirs), shapes)
    _copy_or_assign(model, parts, ours)
