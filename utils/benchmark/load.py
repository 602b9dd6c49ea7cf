"""Memory that loading base weights takes: the part `load` of utils.benchmark."""

import json
import math
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from llama.checkpoint import load_base_weights
from llama.model import ModelArgs, Transformer
from llama.weight_files import HuggingFaceFolder, open_checkpoint
from utils.cli.flags import parse_settings
from utils.runtime.memory import parse_bytes, rss_bytes

LEAST_LAYERS, WIDTHS = 8, (4096, 2048, 1024, 512, 256)


@dataclass(frozen=True)
class LoadSettings:
    """Of the measurement; a comment a field, shown by --help."""

    size: str = "2GB"  # of each checkpoint, about
    folder: str = ""  # where the files are made and removed; empty: the system's temporary folder


def load(argv: list[str]) -> None:
    """Make random checkpoints in Meta's and Hugging Face's layout, load each in a process of its own, print its peak.

    Raises:
        ValueError: a size that is no amount of memory, or too small for a LLaMA.
    """
    what = "Measure the memory that loading base weights takes."
    given = parse_settings(LoadSettings, argv, "python -m utils.benchmark load", what, lambda settings: [])
    args = _shape(parse_bytes(given.size))
    print(f"{args.n_layers} layers of width {args.dim}, bfloat16, whole processes")
    print("| layout | checkpoint, GB | peak resident, GB | ratio | s |")
    print("| --- | --- | --- | --- | --- |")
    for layout, write in (("Meta", _write_meta), ("Hugging Face", _write_hugging_face)):
        with tempfile.TemporaryDirectory(dir=given.folder or None) as place:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.apply(write, (Path(place), args))
            size = sum(path.stat().st_size for path in Path(place).iterdir())
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(_load, (Path(place),))
        print(f"| {layout} | {size / 1e9:.3f} | {peak / 1e9:.3f} | {peak / size:.3f} | {seconds:.1f} |", flush=True)


def _shape(size: int) -> ModelArgs:
    """A LLaMA whose bfloat16 checkpoint, with its output head, has about `size` bytes, as wide as depth allows."""
    for width in WIDTHS:
        args = ModelArgs(dim=width, n_heads=width // 64)
        outside = 2 * 2 * args.vocab_size * width
        layer = 2 * (4 * width**2 + 3 * width * args.ffn_width)
        n_layers = round((size - outside) / layer)
        if n_layers >= LEAST_LAYERS:
            return ModelArgs(dim=width, n_heads=width // 64, n_layers=n_layers)
    raise ValueError(f"--size {size} bytes: too small for a LLaMA of {LEAST_LAYERS} layers; 50MB or more")


def _tensors(args: ModelArgs) -> dict[str, torch.Size]:
    """Meta's names of all tensors in a checkpoint, to their shapes."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(args).named_parameters()}
    return shapes | {"output.weight": shapes["tok_embeddings.weight"]}


def _random(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16) * 0.02


def _write_meta(place: Path, args: ModelArgs) -> None:
    params = {"dim": args.dim, "n_layers": args.n_layers, "n_heads": args.n_heads, "multiple_of": args.multiple_of}
    (place / "params.json").write_text(json.dumps(params | {"norm_eps": args.norm_eps, "vocab_size": -1}))
    torch.save({name: _random(shape) for name, shape in _tensors(args).items()}, place / "consolidated.00.pth")


def _write_hugging_face(place: Path, args: ModelArgs) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": args.dim,
        "num_hidden_layers": args.n_layers,
        "num_attention_heads": args.n_heads,
        "vocab_size": args.vocab_size,
        "intermediate_size": args.ffn_width,
        "rms_norm_eps": args.norm_eps,
    }
    (place / "config.json").write_text(json.dumps(config))
    header, end, shapes = {}, 0, _tensors(args)
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[_hugging_face_name(name)] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (place / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for shape in shapes.values():
            file.write(_random(shape).view(torch.uint8).numpy().data)


def _hugging_face_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    for theirs, ours in HuggingFaceFolder.TOP.items():
        if stem == ours:
            return f"{theirs}.weight"
    _, number, rest = stem.split(".", 2)
    theirs = {ours: theirs for theirs, ours in HuggingFaceFolder.LAYER.items()}[rest]
    return f"model.layers.{number}.{theirs}.weight"


def _load(folder: Path) -> tuple[int, float]:
    """Most resident bytes of this process while all weights are loaded, and once each has been read; seconds."""
    started = time.perf_counter()
    args = ModelArgs(**open_checkpoint(folder).shape)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, folder, torch.bfloat16)
    total = sum(p.sum(dtype=torch.float32) for p in transformer.parameters())  # what stays in the files is read now
    assert total.isfinite()
    return rss_bytes("VmHWM"), time.perf_counter() - started
