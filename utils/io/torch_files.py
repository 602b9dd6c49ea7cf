"""PyTorch files that end with a checksum, and dictionaries of a named format and version in them."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from llama.torch_file import load_torch_file
from utils.io.atomic import atomic_write
from utils.io.checksums import ChecksumWriter, verify_checksum

RESTORE_HINT = "put back a copy, or regenerate it"


def save_with_checksum(content: dict | Tensor, path: str | Path, previous: Path | None = None) -> None:
    """Write a PyTorch file atomically, with a checksum at its end.

    Args:
        content: what torch.save writes.
        path: the file; its folder is made if needed.
        previous: where to keep the file that is replaced, if any.

    Raises:
        DiskFullError: the disk is full; what was at `path` is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor))
    with atomic_write(path, n_bytes, previous) as temporary, temporary.open("wb") as file:
        writer = ChecksumWriter(file)
        torch.save(content, writer)
        writer.write_trailer()


def load_with_checksum(path: Path):
    """Verify the checksum of a file that `save_with_checksum` wrote, then load its content to the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged (CorruptFileError).
    """
    verify_checksum(path)
    return load_torch_file(path)


def load_versioned(path: Path, name: str, version: int, parts: dict[str, Iterable[str]] | None = None) -> dict:
    """Load a dictionary that `save_with_checksum` wrote.

    Args:
        path: the file.
        name: the format's name, which must be the dictionary's "format".
        version: what must be its "version".
        parts: keys whose values must be dictionaries, each with the keys that this one must have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged (CorruptFileError), of another format or version, or lacks a part.
    """
    content = load_with_checksum(path)
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if str(found) != str((name, version)):  # as text, because a tensor cannot be compared with a number
        raise ValueError(f"{path}: not a {name} of version {version}, found {found!s:.90}")
    if problem := _parts_problem(content, parts or {}) or _settings_problem(content):
        raise ValueError(f"{path}: {problem}; {RESTORE_HINT}")
    return content


def _parts_problem(content: dict, parts: dict[str, Iterable[str]]) -> str:
    """Describe which parts are missing or no dictionaries; return "" if there is none."""
    missing = [part for part in parts if part not in content]
    if missing:
        return f"without {', '.join(missing)}"
    wrong = [part for part in parts if not isinstance(content[part], dict)]
    if wrong:
        return f"{', '.join(wrong)}: a dictionary is expected"
    missing = [f"{part}.{key}" for part, keys in parts.items() for key in keys if key not in content[part]]
    return f"without {', '.join(missing)}" if missing else ""


def _settings_problem(content: dict) -> str:
    """Describe why the settings, if any, are not strings, numbers and containers of them; return "" if they are."""
    try:
        json.dumps(content.get("settings"))
    except (ValueError, TypeError, RecursionError) as error:
        return f"settings: strings and numbers are expected ({error})"
    return ""
