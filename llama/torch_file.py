"""PyTorch files from elsewhere: read without running code from them, and without using more memory than they are long.

`torch.load(weights_only=True)` runs no code that a file holds. It lets two things pass that make a file of a few
bytes fill the memory, which are refused here:

* zip entries that are compressed, where torch.save stores them as they are: `check_not_packed`;
* tensors that repeat few stored numbers by strides of 0, or have no numbers at all: `is_dense_tensor`.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

REASON_LENGTH = 120


def load_torch_file(path: Path, mapped: bool = False):
    """Load the content of a PyTorch file to the CPU.

    Args:
        path: file that torch.save has written.
        mapped: map the tensors to the file instead of copying them, where it has torch's format since 1.6.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is damaged, or holds other objects than tensors, numbers, strings and containers of them.
    """
    try:
        check_not_packed(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip(path))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = error_reason(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's message advises to run the code in the file
            reason = "it holds other objects than tensors, which are never loaded"
        raise ValueError(f"{path}: cut short or not a PyTorch file of tensors ({reason}); download it again") from error


def error_reason(error: Exception) -> str:
    """Shorten a library's error message to one printable line; the error's type, if it has no message."""
    line = " ".join(str(error).split())[:REASON_LENGTH]
    return "".join(char if char.isprintable() else "?" for char in line) or type(error).__name__


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip archive, as those of torch.save are since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def check_not_packed(path: Path) -> None:
    """Check that a PyTorch file, if it is a zip archive, does not unpack to more bytes than it has.

    Raises:
        ValueError: an entry is compressed, or the entries overlap.
    """
    if not is_zip(path):
        return
    with path.open("rb") as file:
        entries = zipfile.ZipFile(file).infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are compressed, or longer than the file")


def is_dense_tensor(content: object) -> bool:
    """Return whether an object from a file is a CPU tensor of which every number was stored in the file."""
    if not isinstance(content, Tensor) or content.layout is not torch.strided or content.device.type != "cpu":
        return False
    return content.numel() * content.element_size() <= content.untyped_storage().nbytes()
