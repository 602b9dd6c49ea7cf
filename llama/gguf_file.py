"""Base weights in one GGUF file of architecture llama, dequantised tensor by tensor.

llama.cpp's converter has put the rows of queries and keys in pairs side by side, which is Meta's order: nothing is
reordered here. Header and number formats are read by the package gguf, which is needed for such files only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llama.sizes import shape_problems

INSTALL = "pip install gguf"
OTHER_FILE = "take a file of a plain LLaMA, such as LLaMA-2 or SmolLM2"
LAYER = {  # name in a block -> Meta's name, and what its rows and columns are
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
HEAD, ROPE = "output.weight", "rope_freqs.weight"  # LLaMA's own head, never read; factors of the rotations


class Entry(NamedTuple):
    """Where a tensor lies: first byte and size in bytes; shape as PyTorch has it; the package's number format."""

    offset: int
    size: int
    shape: tuple[int, ...]
    kind: object


def import_gguf(path: Path):
    """The module gguf.

    Raises:
        ValueError: not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"{path}: a GGUF file is read with the package gguf, which is missing: {INSTALL}") from error
    return gguf


def read_header(path: Path) -> tuple[dict, dict[str, Entry]]:
    """Metadata of the model, without the tokenizer's, and tensors by the file's names.

    Raises:
        ValueError: the package is missing; not a GGUF file, cut short or damaged.
    """
    gguf = import_gguf(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file: fetch it again, or give the folder of weights of another kind")

    class Reader(gguf.GGUFReader):
        def _get(self, offset, dtype, count=1, override_order=None):
            # The package gives fewer numbers at the end of a file; an array of absurd length would keep it for hours.
            part = super()._get(offset, dtype, count, override_order)
            if len(part) < count:
                raise ValueError(f"{count} numbers are expected at byte {offset}, after which the file ends")
            return part

    try:
        reader = Reader(path)
        if reader.byte_order != "I":
            raise ValueError("big-endian")
        fields = {k: v.contents() for k, v in reader.fields.items() if k.split(".")[0] in ("general", "llama", "split")}
        entries = {
            t.name: Entry(t.data_offset, t.n_bytes, tuple(reversed(t.shape.tolist())), t.tensor_type)
            for t in reader.tensors
        }
        if odd := [name for name in entries if not name.isprintable()]:
            raise ValueError(f"{odd[0]!r} is no name of a tensor")
        end = reader.data_offset
        for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
            if entry.offset < end:
                raise ValueError(f"{name} lies on another tensor")
            end = entry.offset + entry.size
    except Exception as error:  # the package raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path}: cut short or damaged ({reason}); fetch it again") from error
    return fields, entries


def model_shape(path: Path, fields: dict) -> dict:
    """ModelArgs fields that the metadata state.

    Raises:
        ValueError: another architecture, a part that the model lacks, sizes that cannot be; all in one message.
    """
    if (kind := fields.get("general.architecture")) != "llama":
        raise ValueError(f"{path}: general.architecture is {kind!r} (llama is read); {OTHER_FILE}")
    if (parts := fields.get("split.count", 1)) not in (0, 1):
        raise ValueError(f"{path}: one of {parts!r} parts; make one file of them with llama-gguf-split --merge")
    of = {key.removeprefix("llama."): value for key, value in fields.items() if key.startswith("llama.")}
    names = {
        "dim": "embedding_length",
        "n_layers": "block_count",
        "n_heads": "attention.head_count",
        "n_kv_heads": "attention.head_count_kv",
        "ffn_dim": "feed_forward_length",
        "norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    }
    of = {"attention.head_count_kv": of.get("attention.head_count"), "rope.freq_base": 10000.0} | of
    shape = {ours: of.get(theirs) for ours, theirs in names.items()}
    wrong = shape_problems(shape, {ours: f"llama.{theirs}" for ours, theirs in names.items()}) or unsupported_metadata(
        of, shape
    )
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}; {OTHER_FILE}")
    shape["norm_eps"] = float(f"{shape['norm_eps']:.7g}")  # float32 there; 1e-05 again, as other files state it
    return shape


def unsupported_metadata(of: dict, shape: dict) -> list[str]:
    """What the metadata ask for and the model does not do, a phrase each."""
    head_dim = shape["dim"] // shape["n_heads"]
    checks = {
        "rope.scaling.type": "none",
        "rope.scale_linear": 1.0,
        "rope.dimension_count": head_dim,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.sliding_window": 0,
        "attention.causal": True,
        "expert_count": 0,
    }
    odd = {key: read for key, read in checks.items() if of.get(key, read) != read}
    return [f"llama.{key} is {of[key]!r:.60} ({read!r} is read)" for key, read in odd.items()]


class GGUFFile:
    """A GGUF file of architecture llama, with or without its own output head.

    `shape` holds the ModelArgs fields that the file states; `names` the parameters it holds, as Meta calls them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        fields, entries = read_header(path)
        self.shape = model_shape(path, fields)
        self.shape["vocab_size"] = entries["token_embd.weight"].shape[0] if "token_embd.weight" in entries else 0
        self.where = self._where(entries)
        self.names = set(self.where)
        if ROPE in entries and not self._values(ROPE, entries[ROPE], self._map()).eq(1).all():
            raise ValueError(f"{path}: {ROPE} scales the rotations, as LLaMA-3.1 does (1 is read); {OTHER_FILE}")

    def _where(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Meta's name -> place of every parameter that is read."""
        head_dim = self.shape["dim"] // self.shape["n_heads"]
        width = {"vocab": self.shape["vocab_size"], "dim": self.shape["dim"], "ffn": self.shape["ffn_dim"]}
        width["kv"] = self.shape["n_kv_heads"] * head_dim
        prefixes = {"": ("", TOP)} | {f"blk.{n}.": (f"layers.{n}.", LAYER) for n in range(self.shape["n_layers"])}
        wanted = {
            f"{theirs}{name}.weight": (f"{ours}{meta}.weight", tuple(width[what] for what in size))
            for theirs, (ours, table) in prefixes.items()
            for name, (meta, *size) in table.items()
        }
        lists = {"missing": wanted.keys() - entries, "unknown": entries.keys() - wanted - {HEAD, ROPE}}
        wrong = [f"{what} {', '.join(sorted(names)[:5])}" for what, names in lists.items() if names]
        for name, (_, size) in wanted.items():
            if name in entries and (entries[name].shape != size or 0 in size):
                wrong.append(f"{name} has shape {entries[name].shape}, by the metadata {size}")
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ValueError(f"{self.path}: {'; '.join(wrong[:3])}{more}; fetch it again, or {OTHER_FILE}")
        return {meta: entries[name] for name, (meta, _) in wanted.items()}

    def _map(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, "c")  # writing, which nobody does, would not change the file

    def _values(self, name: str, entry: Entry, data: np.memmap) -> Tensor:
        """float32, of the entry's shape; a view of the file where it holds float32."""
        rows = data[entry.offset : entry.offset + entry.size].reshape(*entry.shape[:-1], -1)
        try:
            return torch.from_numpy(import_gguf(self.path).quants.dequantize(rows, entry.kind))
        except NotImplementedError as error:
            raise ValueError(
                f"{self.path}: {name} has number format {entry.kind.name}, which the package gguf does not read; "
                "convert it with llama-quantize, for instance to F16"
            ) from error

    def reader(self, partition_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """A function from name to the whole tensor, float32; the file is mapped anew."""
        data = self._map()
        return lambda name: self._values(name, self.where[name], data)
