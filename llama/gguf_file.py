"""Base weights in a GGUF file of architecture llama, whole or split into parts, dequantised tensor by tensor.

llama.cpp's converter has already put the two rows of each rotated pair of a query or key next to each other, which is
Meta's order: nothing is reordered here. The package gguf, needed for such files only, reads the header and dequantises.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama.model import ModelArgs, llama3_divisors, rotation_frequencies
from llama.torch_file import error_reason
from llama.weight_shapes import check_begin_token, shape_problems, window_problems

OTHER_FILE = "take a file of a plain LLaMA, such as LLaMA-2 or SmolLM2"
LAYER = {  # name in a block -> Meta's name, and the sizes of its dimensions
    "attn_q": ("attention.wq", "dim", "dim"),
    "attn_k": ("attention.wk", "kv", "dim"),
    "attn_v": ("attention.wv", "kv", "dim"),
    "attn_output": ("attention.wo", "dim", "dim"),
    "ffn_gate": ("feed_forward.w1", "ffn", "dim"),
    "ffn_down": ("feed_forward.w2", "dim", "ffn"),
    "ffn_up": ("feed_forward.w3", "ffn", "dim"),
    "attn_norm": ("attention_norm", "dim"),
    "ffn_norm": ("ffn_norm", "dim"),
}
TOP = {"token_embd": ("tok_embeddings", "vocab", "dim"), "output_norm": ("norm", "dim")}
HEAD = "output.weight"  # LLaMA's own output head, never read
ROPE_FACTORS = "rope_freqs.weight"  # factors of the rotations' wavelengths
METADATA_KEYS = {  # ModelArgs field -> key of the metadata, below "llama."
    "dim": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "ffn_dim": "feed_forward_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
MODEL_SECTIONS = ("general", "llama", "split")
SENTENCEPIECE_BEGIN_TOKEN = 1
MAX_LISTED = 3  # problems in one message


class TensorEntry(NamedTuple):
    """A tensor: its file, its first byte, its size in bytes, its shape in PyTorch's order, its GGML type."""

    path: Path
    offset: int
    n_bytes: int
    shape: tuple[int, ...]
    ggml_type: object


def import_gguf(path: Path):
    """Import the package gguf; raise ValueError, naming the file that needs it, if it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"{path}: reading a GGUF file needs the package gguf: pip install gguf") from error
    return gguf


def read_header(path: Path, sections: tuple[str, ...] = MODEL_SECTIONS) -> tuple[dict, dict[str, TensorEntry]]:
    """Read metadata, by default the model's, and the tensors' entries by their names in the file.

    Args:
        path: the file.
        sections: first words of the metadata's keys to read.

    Raises:
        ValueError: the package gguf is missing, or the file is of another kind, cut short or damaged.
    """
    gguf = import_gguf(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(
                f"{path}: not a GGUF file: download it again, or give a folder of weights in another layout"
            )

    class Reader(gguf.GGUFReader):
        def _get(self, offset, dtype, count=1, override_order=None):
            # At the end of the file the package returns fewer values. A damaged array length would keep it busy for
            # hours then.
            values = super()._get(offset, dtype, count, override_order)
            if len(values) < count:
                raise ValueError(f"{count} values are expected at byte {offset}, after which the file ends")
            return values

    try:
        reader = Reader(path)
        if reader.byte_order != "I":
            raise ValueError("big-endian")
        metadata = {key: field.contents() for key, field in reader.fields.items() if key.split(".")[0] in sections}
        entries = {
            t.name: TensorEntry(path, t.data_offset, t.n_bytes, tuple(reversed(t.shape.tolist())), t.tensor_type)
            for t in reader.tensors
        }
        _check_layout(entries, reader.data_offset)
    except Exception as error:  # the package raises many kinds for a damaged file
        raise ValueError(f"{path}: cut short or damaged ({error_reason(error)}); download it again") from error
    return metadata, entries


def _check_layout(entries: dict[str, TensorEntry], data_offset: int) -> None:
    """Check that all names are printable and that no tensor overlaps another one or the header."""
    for name in entries:
        if not name.isprintable():
            raise ValueError(f"{name!r} is not a tensor's name")
    end = data_offset
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset < end:
            raise ValueError(f"{name} overlaps another tensor")
        end = entry.offset + entry.n_bytes


def model_shape(path: Path, metadata: dict) -> dict:
    """Return the ModelArgs fields that the metadata state.

    Raises:
        ValueError: the architecture is another one, a feature is not supported, or sizes are impossible.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{path}: general.architecture is {architecture!r} (llama is supported); {OTHER_FILE}")
    model = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    model.setdefault("attention.head_count_kv", model.get("attention.head_count"))
    model.setdefault("rope.freq_base", 10000.0)
    shape = {field: model.get(key) for field, key in METADATA_KEYS.items()}
    problems = shape_problems(shape, {field: f"llama.{key}" for field, key in METADATA_KEYS.items()})
    problems = problems or unsupported_metadata(model, shape)
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}; {OTHER_FILE}")
    # Stored as float32; seven digits give the number that other layouts state, 1e-05 for instance.
    shape["norm_eps"] = float(f"{shape['norm_eps']:.7g}")
    return shape


def unsupported_metadata(model: dict, shape: dict) -> list[str]:
    """List the features that the metadata ask for and the model lacks, one phrase per feature."""
    head_dim = shape["dim"] // shape["n_heads"]
    supported = {
        "rope.scaling.type": "none",
        "rope.scale_linear": 1.0,
        "rope.dimension_count": head_dim,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.causal": True,
        "expert_count": 0,
    }
    if model.get("rope.scaling.type") == "linear" and model.get("rope.scaling.factor") == 1:
        del supported["rope.scaling.type"]
    problems = [
        f"llama.{key} is {model[key]!r:.60} ({value!r} is supported)"
        for key, value in supported.items()
        if model.get(key, value) != value
    ]
    return problems + window_problems("llama.attention.sliding_window", model.get("attention.sliding_window"))


def rope_scaling(factors: Tensor, shape: dict) -> dict | None:
    """Return the ModelArgs fields whose rotations are divided by some factors, which are Llama-3.1's; None if none are.

    Args:
        factors: float32 (head_dim / 2,), one divisor per rotation frequency.
        shape: the other ModelArgs fields.
    """
    if factors.eq(1).all():
        return {}
    frequencies = rotation_frequencies(shape["dim"] // shape["n_heads"], shape["rope_theta"])
    fields = {
        "rope_factor": factors.max().item(),  # the slowest rotation has all of it
        "rope_low_freq_factor": ModelArgs.rope_low_freq_factor,
        "rope_high_freq_factor": ModelArgs.rope_high_freq_factor,
        "rope_original_context": ModelArgs.rope_original_context,
    }
    if factors.shape != frequencies.shape or not fields["rope_factor"] >= 1:
        return None
    expected = llama3_divisors(frequencies, *fields.values())
    return fields if torch.allclose(factors, expected, rtol=1e-4, atol=0) else None


class GGUFFile:
    """A GGUF file of architecture llama, with or without its own output head; or all parts of a split one.

    Attributes:
        shape: The ModelArgs fields that the file states.
        names: The parameters that the file holds, by Meta's names.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.path = paths[0]  # the part with the metadata
        metadata, entries = self._read_parts(paths)
        self.shape = model_shape(self.path, metadata)
        self.shape["vocab_size"] = entries["token_embd.weight"].shape[0] if "token_embd.weight" in entries else 0
        self.locations = self._locate(entries)
        self.names = set(self.locations)
        if ROPE_FACTORS in entries:
            entry = entries[ROPE_FACTORS]
            scaling = rope_scaling(self._dequantize(ROPE_FACTORS, entry, self._map(entry.path)), self.shape)
            if scaling is None:
                raise ValueError(
                    f"{entry.path}: {ROPE_FACTORS} scales the rotations otherwise than Llama-3.1 does; {OTHER_FILE}"
                )
            self.shape |= scaling

    @staticmethod
    def _read_parts(paths: list[Path]) -> tuple[dict, dict[str, TensorEntry]]:
        """Return the first part's metadata and the entries of all parts."""
        first: dict = {}
        entries: dict[str, TensorEntry] = {}
        for number, path in enumerate(paths):
            metadata, found = read_header(path)
            first = first or metadata
            n_parts = metadata.get("split.count", 1)
            if (n_parts or 1) != len(paths) or metadata.get("split.no", number) != number:
                raise ValueError(
                    f"{path}: one of {n_parts!r} parts; download all of them (-00001-of-{n_parts!r:0>5}.gguf and so "
                    "on), or make one file of them with llama-gguf-split --merge"
                )
            if twice := sorted(entries.keys() & found):
                raise ValueError(f"{path}: {twice[0]} is in {entries[twice[0]].path.name}, too; download both again")
            entries |= found
        return first, entries

    def _expected_tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return name in the file -> (Meta's name, shape) of every parameter of a model of this shape."""
        sizes = {
            "vocab": self.shape["vocab_size"],
            "dim": self.shape["dim"],
            "ffn": self.shape["ffn_dim"],
            "kv": self.shape["n_kv_heads"] * (self.shape["dim"] // self.shape["n_heads"]),
        }
        blocks = [("", "", TOP)]
        blocks += [(f"blk.{n}.", f"layers.{n}.", LAYER) for n in range(self.shape["n_layers"])]
        return {
            f"{file_prefix}{name}.weight": (f"{meta_prefix}{meta}.weight", tuple(sizes[d] for d in dims))
            for file_prefix, meta_prefix, names in blocks
            for name, (meta, *dims) in names.items()
        }

    def _locate(self, entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
        """Return Meta's name -> entry of every parameter.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape than the metadata say.
        """
        expected = self._expected_tensors()
        invalid = []
        missing = expected.keys() - entries
        unknown = entries.keys() - expected - {HEAD, ROPE_FACTORS}
        for kind, names in (("missing", missing), ("unknown", unknown)):
            if names:
                invalid.append(f"{kind} {', '.join(sorted(names)[:5])}")
        for name, (_, shape) in expected.items():
            if name in entries and (entries[name].shape != shape or 0 in shape):
                invalid.append(f"{name} has shape {entries[name].shape}, by the metadata {shape}")
        if invalid:
            n_more = len(invalid) - MAX_LISTED
            more = f" and {n_more} more" if n_more > 0 else ""
            raise ValueError(
                f"{self.path}: {'; '.join(invalid[:MAX_LISTED])}{more}; download it again, or {OTHER_FILE}"
            )
        return {meta: entries[name] for name, (meta, _) in expected.items()}

    def begin_token(self) -> int:
        """Return the begin-of-sequence token of the metadata; a SentencePiece tokenizer may leave it out."""
        metadata, _ = read_header(self.path, ("tokenizer",))
        default = SENTENCEPIECE_BEGIN_TOKEN if metadata.get("tokenizer.ggml.model", "llama") == "llama" else None
        token = metadata.get("tokenizer.ggml.bos_token_id", default)
        return check_begin_token(self.path, "tokenizer.ggml.bos_token_id", token, self.shape["vocab_size"])

    @staticmethod
    def _map(path: Path) -> np.memmap:
        return np.memmap(path, np.uint8, "c")  # copy-on-write: torch.from_numpy wants writable memory

    def _dequantize(self, name: str, entry: TensorEntry, data: np.memmap) -> Tensor:
        """Return a tensor as float32, of the entry's shape; a view of the file if that stores float32."""
        rows = data[entry.offset : entry.offset + entry.n_bytes].reshape(*entry.shape[:-1], -1)
        try:
            return torch.from_numpy(import_gguf(self.path).quants.dequantize(rows, entry.ggml_type))
        except NotImplementedError as error:
            raise ValueError(
                f"{entry.path}: {name} has number format {entry.ggml_type.name}, which the package gguf does not read; "
                "convert it with llama-quantize, for instance to F16"
            ) from error

    def reader(self, shard_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """Return a function from a parameter's name to its tensor, float32, from a new mapping of the file."""
        data = {path: self._map(path) for path in {entry.path for entry in self.locations.values()}}

        def read(name: str) -> Tensor:
            entry = self.locations[name]
            return self._dequantize(name, entry, data[entry.path])

        return read
