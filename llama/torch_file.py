"""Base weights as they lie on disk: Meta's folder, Hugging Face's or a GGUF file, read by Meta's parameter names.

Files are memory-mapped and opened anew for every group of parameters, so that the pages of what has been
copied are given back; what can be used as it lies is not copied at all.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor


def load_torch_file(path: Path, mapped: bool = False):
    """Tensors of a PyTorch file, on the CPU.

    Raises:
        ValueError: not a readable PyTorch file of tensors.
    """
    try:
        check_not_packed(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's advice is to run whatever the file holds
            reason = "it holds something else, which is never run"
        raise ValueError(f"{path}: cut short or not a PyTorch file of tensors ({reason}); fetch it again") from error


def check_not_packed(path: Path) -> None:
    """See that a PyTorch file needs no more memory than it is long; only what is a zip archive could.

    Raises:
        ValueError: it is not as torch.save writes it.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
        entries = zipfile.ZipFile(file).infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are packed, or more than the file is long")


def is_dense_tensor(content: object) -> bool:
    """Whether something from a file is a tensor whose every number was in the file.

    A few bytes can be stretched over as many rows as one likes.
    """
    plain = isinstance(content, Tensor) and content.layout is torch.strided and content.device.type == "cpu"
    return plain and content.numel() * content.element_size() <= content.untyped_storage().nbytes()
