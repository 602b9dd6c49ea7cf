"""Base weights into the model, adapters to and from disk, and files of the released program."""

from pathlib import Path

import torch
from torch import Tensor, nn

from llama.model import Transformer
from llama.parallel import shard, shard_dims
from llama.weight_files import UNUSED, open_checkpoint

N_GROUPS = 32  # parameters are read in this many groups; the files' pages are given back after each


def assign_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make tensor the parameter called name, without a copy; whether it is trained stays as it was."""
    owner = module.get_submodule(name.rpartition(".")[0])
    old = getattr(owner, name.rpartition(".")[2])
    setattr(owner, name.rpartition(".")[2], nn.Parameter(tensor, requires_grad=old.requires_grad))


def check_keys_and_shapes(
    what: str, found: set[str], expected: set[str], shapes: dict[str, tuple] | None = None
) -> None:
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


def load_base_weights(
    transformer: Transformer, folder: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """Assign the base weights of a Meta or Hugging Face folder or a GGUF file, this process's slice of each.

    Matrices become `dtype`, norms float32. Whole matrices that need no conversion stay mapped to the file.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is missing, unknown or of another shape.
    """
    files = open_checkpoint(folder)
    wanted = {name: p for name, p in transformer.named_parameters() if ".lora." not in name}
    check_keys_and_shapes(str(folder), files.names - set(UNUSED), set(wanted))
    # By kind rather than by layer: a group that is copied as a whole keeps no page of the files.
    dims, names = shard_dims(transformer), sorted(wanted, key=lambda name: name.split(".")[::-1])
    size = -(-len(names) // N_GROUPS)
    for first in range(0, len(names), size):
        read = files.reader(dims)
        for name in names[first : first + size]:
            whole = read(name)
            tensor = shard(whole, dims[name])
            check_keys_and_shapes(str(folder), set(), set(), {name: (tensor.shape, wanted[name].shape)})
            # A norm or a slice that stayed a view would keep all of its file's pages, or the whole tensor, in memory.
            norm = tensor.ndim == 1
            tensor = tensor.to(device, torch.float32 if norm else dtype, copy=norm or tensor is not whole)
            assign_parameter(transformer, name, tensor.contiguous())
        del read, whole, tensor


@torch.no_grad()
def copy_or_assign(model: nn.Module, parts: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        if targets[name].is_meta:
            assign_parameter(model, name, part.clone())
        else:
            targets[name].copy_(part)
