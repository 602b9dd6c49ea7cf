"""One file of tensors by name, safetensors or PyTorch's, mapped to memory where its format allows that."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama.torch_file import error_reason, is_dense_tensor, is_zip, load_torch_file

GIT_LFS = b"version https://git-lfs"


class TensorFile:
    """A file of floating-point tensors by name.

    Attributes:
        path: The file.
        names: The tensors' names in it.
    """

    def __init__(self, path: Path) -> None:
        """Read the names.

        Raises:
            OSError: the file is missing, a folder, or may not be read.
            ValueError: it is cut short or damaged, or holds something else than floating-point tensors by name.
        """
        self.path = path
        self._in_memory: dict[str, Tensor] | None = None
        with path.open("rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                raise ValueError(
                    f"{path}: Git LFS's note of where the file is, not the file; download it with git lfs pull"
                )
        if path.suffix == ".safetensors":
            self.names = set(open_safetensors(path).offset_keys())
        else:
            self.names = set(self._load_torch())

    def open(self) -> Callable[[str], Tensor]:
        """Map the file anew; return a function from a name to its tensor."""
        if self.path.suffix == ".safetensors":
            return open_safetensors(self.path).get_tensor
        return self._load_torch().__getitem__

    def _load_torch(self) -> dict[str, Tensor]:
        """Map a PyTorch file to memory, or read it once, if it has torch's old format without zip."""
        if self._in_memory is not None:
            return self._in_memory
        tensors = load_torch_file(self.path, mapped=True)
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            found = type(tensors).__name__
            raise ValueError(f"{self.path}: tensors by name are expected, found {found}; download it again")
        for name, tensor in tensors.items():
            if isinstance(tensor, dict):
                advice = "save the base weights alone, with torch.save of that dictionary"
                raise ValueError(f"{self.path}: a training's checkpoint, {name!r:.60} is a dictionary; {advice}")
            if not is_dense_tensor(tensor) or not tensor.is_floating_point():
                raise ValueError(f"{self.path}: {name!r:.60} is not a dense floating-point tensor; download it again")
        if not is_zip(self.path):
            self._in_memory = tensors
        return tensors


def open_safetensors(path: Path) -> safe_open:
    """Open a safetensors file; its tensors are mapped to memory.

    Raises:
        ValueError: it is cut short or damaged, or holds something else than floating-point tensors.
    """
    try:
        file = safe_open(path, framework="pt")
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.offset_keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or damaged ({error_reason(error)}); download it again") from error
    for name, dtype in dtypes.items():
        if dtype not in ("F64", "F32", "F16", "BF16"):
            raise ValueError(f"{path}: {name!r:.90} has dtype {dtype}; take weights in F64, F32, F16 or BF16")
    return file
