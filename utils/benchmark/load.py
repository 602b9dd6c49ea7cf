"""Memory that loading base weights takes: the part `load` of utils.benchmark."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama.checkpoint import load_base_weights, open_checkpoint
from llama.model import ModelArgs, Transformer
from llama.weight_files import HuggingFaceFolder
from utils.benchmark.measure import in_new_process
from utils.cli.flags import parse_settings
from utils.runtime.byte_sizes import parse_bytes
from utils.runtime.memory import rss_bytes

MIN_LAYERS = 8
WIDTHS = (4096, 2048, 1024, 512, 256)
HEAD_WIDTH = 64


@dataclass(frozen=True)
class LoadSettings:
    """Settings of the measurement, one comment per field, which --help shows."""

    size: str = "2GB"  # approximate size of each checkpoint
    folder: str = ""  # where the checkpoints are made and removed; empty: the system's temporary folder


def load(argv: list[str]) -> None:
    """Write random checkpoints in Meta's and Hugging Face's layout, load each in a new process, print its peak memory.

    Raises:
        ValueError: the size is no amount of memory, or too small for a LLaMA.
    """
    description = "Measure the memory that loading base weights takes."
    settings = parse_settings(LoadSettings, argv, "python -m utils.benchmark load", description, lambda settings: [])
    args = _shape_of_size(parse_bytes(settings.size))
    print(f"{args.n_layers} layers of width {args.dim}, bfloat16, one process per checkpoint")
    print("| layout | checkpoint, GB | peak resident, GB | ratio | s |")
    print("| --- | --- | --- | --- | --- |")
    for layout, write in (("Meta", _write_meta), ("Hugging Face", _write_hugging_face)):
        with tempfile.TemporaryDirectory(dir=settings.folder or None) as name:
            folder = Path(name)
            in_new_process(write, folder, args)
            size = sum(path.stat().st_size for path in folder.iterdir())
            peak, seconds = in_new_process(_load, folder)
        print(f"| {layout} | {size / 1e9:.3f} | {peak / 1e9:.3f} | {peak / size:.3f} | {seconds:.1f} |", flush=True)


def _shape_of_size(size: int) -> ModelArgs:
    """Return the widest LLaMA of at least MIN_LAYERS layers whose bfloat16 checkpoint has about `size` bytes."""
    for width in WIDTHS:
        args = ModelArgs(dim=width, n_heads=width // HEAD_WIDTH)
        embedding_bytes = 2 * 2 * args.vocab_size * width  # of tokens and of the output head
        layer_bytes = 2 * (4 * width**2 + 3 * width * args.ffn_width)
        n_layers = round((size - embedding_bytes) / layer_bytes)
        if n_layers >= MIN_LAYERS:
            return ModelArgs(dim=width, n_heads=width // HEAD_WIDTH, n_layers=n_layers)
    raise ValueError(f"--size {size} bytes: too small for a LLaMA of {MIN_LAYERS} layers; give 50MB or more")


def _random_tensors(args: ModelArgs) -> dict[str, Tensor]:
    """Return Meta's names of all tensors in a checkpoint, with random bfloat16 values."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(args).named_parameters()}
    shapes["output.weight"] = shapes["tok_embeddings.weight"]
    return {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in shapes.items()}


def _write_meta(folder: Path, args: ModelArgs) -> None:
    params = {
        "dim": args.dim,
        "n_layers": args.n_layers,
        "n_heads": args.n_heads,
        "multiple_of": args.multiple_of,
        "norm_eps": args.norm_eps,
        "vocab_size": -1,
    }
    (folder / "params.json").write_text(json.dumps(params))
    torch.save(_random_tensors(args), folder / "consolidated.00.pth")


def _write_hugging_face(folder: Path, args: ModelArgs) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": args.dim,
        "num_hidden_layers": args.n_layers,
        "num_attention_heads": args.n_heads,
        "vocab_size": args.vocab_size,
        "intermediate_size": args.ffn_width,
        "rms_norm_eps": args.norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {_hugging_face_name(name): tensor for name, tensor in _random_tensors(args).items()}
    save_file(tensors, folder / "model.safetensors")


def _hugging_face_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    for theirs, ours in HuggingFaceFolder.TOP.items():
        if stem == ours:
            return f"{theirs}.weight"
    _, number, rest = stem.split(".", 2)
    theirs = {ours: theirs for theirs, ours in HuggingFaceFolder.LAYER.items()}[rest]
    return f"model.layers.{number}.{theirs}.weight"


def _load(folder: Path) -> tuple[int, float]:
    """Load all weights and read each once; return the process's peak resident bytes and the seconds it took."""
    started = time.perf_counter()
    args = ModelArgs(**open_checkpoint(folder).shape)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, folder, torch.bfloat16)
    total = sum(p.sum(dtype=torch.float32) for p in transformer.parameters())  # reads what is mapped to the files
    assert total.isfinite()
    return rss_bytes("VmHWM"), time.perf_counter() - started
