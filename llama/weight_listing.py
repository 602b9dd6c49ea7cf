"""Which files of a folder are its base weights: for Hugging Face's layout those that transformers would read."""

import re
from pathlib import Path

from llama.weight_shapes import read_json

# In the order of transformers; an index lists the shards that count
HUGGING_FACE_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SERIES = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.(?:safetensors|bin|gguf)")
# Meta's consolidated.00.pth and other releases' names for the same tensors
META_FILE = re.compile(
    r"consolidated(?:(?P<sign>[.-])(?P<number>\d{1,5})(?:-of-(?P<total>\d{1,5}))?)?\.(?P<suffix>pth|safetensors)"
)
NO_BASE_WEIGHTS = ("adapter_", "consolidated")  # how names of other safetensors files begin
SNAPSHOTS = ("snapshots/*", "models--*/snapshots/*", "hub/models--*/snapshots/*")  # in a hub's cache
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")


def present(path: Path) -> bool:
    """Return whether there is something at a path; a link to a file that is gone counts, so that it is named."""
    return path.exists() or path.is_symlink()


def has_weights(folder: Path) -> bool:
    """Return whether a folder itself has files whose names are those of weights."""
    return any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)


def find_weights(path: Path) -> Path:
    """Return where base weights are: at the path, or in the only snapshot of a hub's cache there.

    Raises:
        ValueError: a hub's cache has several snapshots with weights.
    """
    if not path.is_dir() or has_weights(path):
        return path
    patterns = (*SNAPSHOTS, "*") if path.name == "snapshots" else SNAPSHOTS
    folders = sorted({folder for pattern in patterns for folder in path.glob(pattern) if folder.is_dir()})
    snapshots = [folder for folder in folders if has_weights(folder)] or folders
    if len(snapshots) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in snapshots[:5])
        raise ValueError(f"{path}: several snapshots of weights, {names}: give the path of one of them")
    return snapshots[0] if snapshots else path


def hugging_face_files(folder: Path) -> list[Path]:
    """List the files that transformers would read; without an index all shards of one series; none if there are none.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: an index is damaged, or it is open which of several files count.
    """
    for name in HUGGING_FACE_FILES:
        path = folder / name
        if present(path):
            return _indexed_files(path) if name.endswith(".index.json") else [path]
    safetensors = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(NO_BASE_WEIGHTS)]
    files = one_series(safetensors, "model") or one_series(sorted(folder.glob("pytorch_model-*.bin")), "pytorch_model")
    if files or len(safetensors) < 2:
        return files or safetensors
    names = ", ".join(path.name for path in safetensors)
    raise ValueError(
        f"{folder}: several safetensors files, {names}: give the one that counts the name model.safetensors"
    )


def _indexed_files(index: Path) -> list[Path]:
    """List the shards that an index names, each in the folder of the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: weight_map, from tensor to file, is missing; download it again")
    # Names are reduced to their last part, so that no index leads out of the folder.
    files = sorted({index.parent / Path(str(name)).name for name in weight_map.values()})
    if missing := [str(path) for path in files if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)}: missing, and {index.name} lists it; download it")
    return files


def one_series(paths: list[Path], preferred: str = "") -> list[Path]:
    """List the shards STEM-00001-of-00003 of the only series among some paths, in order; none if there is no series.

    Args:
        paths: files in one folder.
        preferred: stem of the series that counts, where there are several.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: there are several series.
    """
    series: dict[tuple[str, int], dict[int, Path]] = {}
    for path in paths:
        if match := SERIES.fullmatch(path.name):
            key = match["stem"], int(match["total"])
            series.setdefault(key, {})[int(match["number"])] = path
    if any(stem == preferred for stem, _ in series):
        series = {key: shards for key, shards in series.items() if key[0] == preferred}
    if not series:
        return []
    if len(series) > 1:
        names = " and ".join(sorted(min(shards.values()).name for shards in series.values()))
        raise ValueError(f"{paths[0].parent}: shards of several models, {names}; remove those that do not count")
    (stem, total), shards = series.popitem()
    if set(shards) != set(range(1, total + 1)):
        raise FileNotFoundError(
            f"{paths[0].parent}: {len(shards)} of the {total} shards of {stem}; download those that are missing"
        )
    return [shards[number] for number in sorted(shards)]


def meta_files(folder: Path) -> list[Path]:
    """List the files in Meta's layout in order: consolidated.00.pth and so on, or as other releases name them.

    Raises:
        FileNotFoundError: a number is left out.
        ValueError: there are files of several namings.
    """
    namings: dict[tuple, dict[int, Path]] = {}
    for path in sorted(folder.glob("consolidated*")):
        if match := META_FILE.fullmatch(path.name):
            number = match["number"] or ""
            key = match["suffix"], match["sign"], match["total"], len(number)
            namings.setdefault(key, {})[int(number or 0)] = path
    if any(suffix == "pth" for suffix, *_ in namings):
        namings = {key: shards for key, shards in namings.items() if key[0] == "pth"}
    if not namings:
        return []
    if len(namings) > 1:
        names = " and ".join(sorted(min(shards.values()).name for shards in namings.values()))
        raise ValueError(f"{folder}: two sets of weights, {names}; remove the one that does not count")
    (_, _, total, _), shards = namings.popitem()
    n_files = int(total or len(shards))
    first = 0 if total is None and 0 in shards else 1
    if missing := sorted(set(range(first, first + n_files)) - set(shards)):
        raise FileNotFoundError(f"{folder}: consolidated file {missing[0]} of {n_files} is missing; download it")
    return [shards[number] for number in sorted(shards)]


def gguf_files(path: Path) -> list[Path]:
    """List the GGUF file at a path or in a folder, or all parts of the only split one there; none if there is none.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: there are several.
    """
    if path.is_file():
        match = SERIES.fullmatch(path.name)
        if match is None:
            return [path]
        parts = path.parent.glob("*.gguf")
        same = [part for part in parts if (m := SERIES.fullmatch(part.name)) and m.group(1, 3) == match.group(1, 3)]
        return one_series(sorted(same)) or [path]
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1 and all(SERIES.fullmatch(file.name) for file in files):
        return one_series(files)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path}: several GGUF files, {names}: give the path of one of them")
    return files
