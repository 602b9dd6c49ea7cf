"""Base weights into the model, adapters to and from disk, and files of the released program."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from llama.torch_file import load_torch_file
from utils.io.checksums import ChecksumWriter, verify_checksum
from utils.io.disk_full import explain_disk_full


def save_with_checksum(content: dict | Tensor, path: str | Path, before: Path | None = None) -> None:
    """Write a PyTorch file, sealed with a checksum, beside its place and move it there: no reader sees half of it.

    Args:
        before: where the file that it replaces goes, if that is to be kept.

    Raises:
        DiskFullError: the disk is full; what was there is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with explain_disk_full(path, temporary, sum(t.nbytes for t in tree_leaves(content) if isinstance(t, Tensor))):
        with temporary.open("wb") as file:
            sealing = ChecksumWriter(file)
            torch.save(content, sealing)
            sealing.seal()
        if before and path.exists():
            path.replace(before)
        temporary.replace(path)


def load_with_checksum(path: Path):
    """Read back what `save_atomically` wrote, its checksum tried first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged (CorruptFileError).
    """
    verify_checksum(path)
    return load_torch_file(path)


def load_versioned(path: Path, form: str, version: int, parts: dict[str, Iterable[str]] | None = None) -> dict:
    """Read back a dictionary that `save_atomically` wrote.

    Args:
        parts: keys that it must have, to the keys of what is there, if that is a dictionary with some of its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged (CorruptFileError), of another format or version, without some of the parts, or other ones.
    """
    content, parts = load_with_checksum(path), parts or {}
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
