"""Base weights from a folder or file into the model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from llama.gguf_file import GGUFFile
from llama.model import Transformer
from llama.parallel import shard, shard_dims
from llama.weight_files import HuggingFaceFolder, MetaFolder
from llama.weight_listing import find_weights, gguf_files, has_weights, hugging_face_files, meta_files
from llama.weight_shapes import DOWNLOAD_HINT

N_GROUPS = 32  # parameters are read in this many groups; the memory of the files' pages is returned after each
SAME_MODEL = "the sizes that are stated are another model's; download all files of one model again"
UNUSED = {"output.weight", "rope.freqs"}  # LLaMA's own output head, and rotations, which are computed
MAX_LISTED_NAMES = 5
PARTS_OF_A_FOLDER = (".safetensors", ".bin", ".pth", ".json", ".model")


def open_checkpoint(path: str | Path) -> MetaFolder | HuggingFaceFolder | GGUFFile:
    """Open base weights: a folder in a layout that its files show, the only such one in a hub's cache, or a GGUF file.

    Raises:
        FileNotFoundError: there is no such folder or file, or the folder has none of the layouts.
        ValueError: a file is damaged or not supported, or it is open which of several files count.
    """
    path = find_weights(Path(path))
    beside = [path.parent / name for name in ("config.json", "params.json")]
    if path.is_file() and path.suffix in PARTS_OF_A_FOLDER and any(map(Path.exists, beside)):
        raise ValueError(f"{path}: one file of a folder of base weights; give the folder, {path.parent}")
    has_config, has_params = ((path / name).exists() for name in ("config.json", "params.json"))
    if has_config and hugging_face_files(path):
        return HuggingFaceFolder(path)
    if has_params and meta_files(path):
        return MetaFolder(path)
    if parts := gguf_files(path):
        return GGUFFile(parts)
    raise FileNotFoundError(f"{path}: {_what_is_missing(path)}")


def _what_is_missing(path: Path) -> str:
    """Return what a folder of one of the layouts would need, in the words of an error message."""
    inside = sorted(folder for folder in path.glob("*") if folder.is_dir() and has_weights(folder))
    if inside:
        return f"no base weights, but {inside[0]} has some: give that path"
    if any(path.glob("adapter_model*")):
        return (
            "an adapter, not base weights; merge it into its base (merge_and_unload of the package peft), or take that"
        )
    if hugging_face_files(path):
        return "no base weights without config.json; download it, it comes with the safetensors files"
    if meta_files(path):
        return "no base weights without params.json; download it, it comes with the consolidated files"
    if (path / "config.json").exists():
        return (
            "config.json without its weights; download model.safetensors (or all its shards and their index, or "
            "pytorch_model.bin), no other form of weights is read beside a config.json"
        )
    if (path / "params.json").exists():
        return f"params.json without consolidated.*.pth; {DOWNLOAD_HINT}"
    return (
        "no base weights: expected params.json with consolidated.*.pth, or config.json with *.safetensors, and "
        f"tokenizer.model; or a GGUF file; {DOWNLOAD_HINT}"
    )


def assign_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter, at any depth of a module, by a tensor without a copy; `requires_grad` stays."""
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    requires_grad = getattr(owner, attribute).requires_grad
    setattr(owner, attribute, nn.Parameter(tensor, requires_grad=requires_grad))


def check_keys_and_shapes(
    source: str, found: set[str], expected: set[str], shapes: dict[str, tuple] | None = None, advice: str = ""
) -> None:
    """Refuse missing names, unknown names and wrong shapes, all in one message.

    Args:
        source: what the message begins with, a path for instance.
        found: names in the source.
        expected: names in the model.
        shapes: for each name to compare, its shape in the source and its shape in the model.
        advice: what to do, the end of the message.

    Raises:
        ValueError: something differs.
    """
    problems = []
    for kind, names in (("missing", expected - found), ("unknown", found - expected)):
        if names:
            n_more = len(names) - MAX_LISTED_NAMES
            more = f" and {n_more} more" if n_more > 0 else ""
            problems.append(f"{kind} {', '.join(sorted(names)[:MAX_LISTED_NAMES])}{more}")
    for name, (found_shape, model_shape) in (shapes or {}).items():
        if tuple(found_shape) != tuple(model_shape):
            problems.append(f"{name} has shape {tuple(found_shape)}, in the model {tuple(model_shape)}")
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems + [advice] * bool(advice))}")


def load_base_weights(
    transformer: Transformer, path: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> None:
    """Load base weights into the model; of a parameter that is split between processes, this process's slice.

    Matrices become `dtype`, norms float32. A full matrix that needs no conversion stays mapped to its file.

    Args:
        transformer: the model, whose parameters may be on the meta device.
        path: folder in Meta's or Hugging Face's layout, or a GGUF file.
        dtype: dtype of the matrices.
        device: device of the parameters.

    Raises:
        FileNotFoundError: there are no base weights.
        ValueError: a file is damaged, or names or shapes differ from the model's.
    """
    files = open_checkpoint(path)
    parameters = {name: p for name, p in transformer.named_parameters() if ".lora." not in name}
    check_keys_and_shapes(str(path), files.names - UNUSED, set(parameters), advice=SAME_MODEL)
    dims = shard_dims(transformer)
    # Parameters of one kind in all layers make a group: all of them are copied, or none, so that a group whose
    # matrices are converted leaves no page of the files in memory.
    names = sorted(parameters, key=lambda name: name.split(".")[::-1])
    group_size = -(-len(names) // N_GROUPS)
    for start in range(0, len(names), group_size):
        read = files.reader(dims)
        for name in names[start : start + group_size]:
            unsharded = read(name)
            tensor = shard(unsharded, dims[name])
            shapes = {name: (tensor.shape, parameters[name].shape)}
            check_keys_and_shapes(str(path), set(), set(), shapes, SAME_MODEL)
            # A norm or a slice that stayed a view would keep all of its file's pages, or the full tensor, in memory.
            is_norm = tensor.ndim == 1
            must_copy = is_norm or tensor is not unsharded
            tensor = tensor.to(device, torch.float32 if is_norm else dtype, copy=must_copy)
            assign_parameter(transformer, name, tensor.contiguous())
        del read, unsharded, tensor


@torch.no_grad()
def copy_or_assign(model: nn.Module, tensors: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    """Copy tensors into the model's `targets` of the same names; assign them to those on the meta device."""
    for name, tensor in tensors.items():
        if targets[name].is_meta:
            assign_parameter(model, name, tensor.clone())
        else:
            targets[name].copy_(tensor)
