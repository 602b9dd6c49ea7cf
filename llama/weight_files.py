"""Base weights as they lie on disk: Meta's folder, Hugging Face's or a GGUF file, read by Meta's parameter names.

Files are memory-mapped and opened anew for every group of parameters, so that the pages of what has been
copied are given back; what can be used as it lies is not copied at all.
"""

import json
import math
import mmap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llama.gguf_file import GGUFFile
from llama.sizes import shape_problems
from llama.torch_file import is_dense_tensor, load_torch_file

UNUSED = ("output.weight", "rope.freqs")  # LLaMA's own output head, and rotations that are computed
DOWNLOAD_HINT = (
    "LLaMA-2 is licensed by Meta: ask at llama.com/llama-downloads (params.json, consolidated.*.pth, tokenizer.model) "
    "or take meta-llama/Llama-2-7b-hf from Hugging Face (config.json, *.safetensors, tokenizer.model)"
)


def read_json(path: Path) -> dict:
    """An object from a small JSON file.

    Raises:
        ValueError: naming the line of what is no JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, found {type(content).__name__}; fetch it again")
    return content


def open_checkpoint(folder: str | Path) -> "MetaFolder | HuggingFaceFolder | GGUFFile":
    """Recognise a weight folder by its files; a file is GGUF.

    Raises:
        FileNotFoundError: no such folder or file, or no known layout in it.
        ValueError: a damaged or unsupported file; several GGUF files.
    """
    folder = Path(folder)
    if (folder / "params.json").exists():
        return MetaFolder(folder)
    files = [folder] if folder.is_file() else sorted(folder.glob("*.gguf"))
    if files and not any(folder.glob("*.safetensors")):  # a config.json may lie beside GGUF files
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise ValueError(f"{folder}: several GGUF files, {names}: give the path of one of them")
        return GGUFFile(files[0])
    if (folder / "config.json").exists():
        return HuggingFaceFolder(folder)
    raise FileNotFoundError(
        f"{folder}: no base weights: expected params.json with consolidated.*.pth, or config.json with "
        f"*.safetensors, and tokenizer.model; or a GGUF file; {DOWNLOAD_HINT}"
    )


class MetaFolder:
    """`params.json` and one or several `consolidated.NN.pth`, each a slice of every split parameter.

    `shape` holds the ModelArgs fields that the files state; `names` the parameters they hold.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("consolidated.*.pth"))
        if not self.files:
            raise FileNotFoundError(f"{folder}: params.json without consolidated.*.pth; {DOWNLOAD_HINT}")
        params = read_json(folder / "params.json")
        if params.get("use_scaled_rope"):
            raise ValueError(f"{folder / 'params.json'}: use_scaled_rope is true (false is read, as LLaMA-2 has it)")
        known = ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps")
        self.shape = {key: params[key] for key in (*known, "rope_theta") if key in params}
        if wrong := shape_problems(self.shape, {}):
            raise ValueError(f"{folder / 'params.json'}: {'; '.join(wrong)}; fetch it again")
        shards = self._open()
        self.names = set(shards[0])
        for path, shard in zip(self.files, shards, strict=True):
            if set(shard) != self.names:
                odd = sorted(set(shard) ^ self.names)[0]
                raise ValueError(f"{path}: {odd} is not in all of the {len(shards)} shards; fetch them again")
        if "tok_embeddings.weight" in self.names:  # params.json may say -1
            self.shape["vocab_size"], columns = [*shards[0]["tok_embeddings.weight"].shape, 0, 0][:2]
            if columns * len(shards) != params.get("dim"):
                raise ValueError(
                    f"{folder}: tok_embeddings.weight has {columns} columns in each of {len(shards)} shards, dim is "
                    f"{params.get('dim')}: fetch the consolidated.*.pth that are missing, or all files again"
                )

    def _open(self) -> list[dict[str, Tensor]]:
        shards = [load_torch_file(path, mapped=True) for path in self.files]
        for path, shard in zip(self.files, shards, strict=True):
            if not isinstance(shard, dict) or not all(isinstance(name, str) for name in shard):
                raise ValueError(f"{path}: tensors by name are expected, found {type(shard).__name__}; fetch it again")
            for name, tensor in shard.items():
                if not is_dense_tensor(tensor) or not tensor.is_floating_point():
                    raise ValueError(f"{path}: {name!r:.60} is not a whole tensor of numbers; fetch it again")
        return shards

    def reader(self, partition_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """A function from name to the whole tensor; mapped where one file holds it all, merged otherwise."""
        shards = self._open()

        def read(name: str) -> Tensor:
            dim = partition_dims[name]
            if len(shards) == 1 or dim is None:
                return shards[0][name]
            parts = [shard[name] for shard in shards]
            if len({part.shape for part in parts}) > 1 or parts[0].ndim <= dim:
                shapes = ", ".join(
                    f"{tuple(part.shape)} in {path}" for part, path in zip(parts, self.files, strict=True)
                )
                raise ValueError(f"{name} differs in shape: {shapes}; fetch the shards again")
            return torch.cat(parts, dim)

        return read


class HuggingFaceFolder:
    """`config.json` and `model.safetensors`, or the shards that `model.safetensors.index.json` names."""

    LAYER = {
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    TOP = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "config.json")
        self.shape = self._shape(folder / "config.json", config)
        index = folder / "model.safetensors.index.json"
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ValueError(f"{index}: weight_map, from tensor to file, is missing; fetch it again")
            self.files = sorted({folder / Path(str(name)).name for name in weight_map.values()})  # in no other folder
        else:
            self.files = sorted(folder.glob("*.safetensors"))
        missing = [str(path) for path in self.files if not path.exists()]
        if missing or not self.files:
            raise FileNotFoundError(f"{', '.join(missing) or folder}: safetensors file missing; {DOWNLOAD_HINT}")
        self.where = {}  # Meta's name -> (file, name in it)
        for path in self.files:
            for name in SafetensorsFile(path).entries:
                if not name.endswith("rotary_emb.inv_freq"):
                    self.where[self._meta_name(path, name)] = (path, name)
        self.names = set(self.where)

    @staticmethod
    def _shape(path: Path, config: dict) -> dict:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{path}: the parameters of the rotations are {rope!r:.60} (an object is read)")
        kind = rope.get("rope_type", rope.get("type", "default"))
        checks = {
            "model_type": (config.get("model_type"), "llama"),
            "hidden_act": (config.get("hidden_act", "silu"), "silu"),
            "attention_bias": (config.get("attention_bias", False), False),
            "mlp_bias": (config.get("mlp_bias", False), False),
            "rope_type": (kind, "default"),
        }
        wrong = [f"{key} is {is_} ({should} is read)" for key, (is_, should) in checks.items() if is_ != should]
        names = {
            "dim": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "vocab_size": "vocab_size",
            "ffn_dim": "intermediate_size",
            "norm_eps": "rms_norm_eps",
        }
        shape = {ours: config.get(theirs) for ours, theirs in names.items()}
        shape["n_kv_heads"] = config.get("num_key_value_heads") or shape["n_heads"]
        shape["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10000.0))
        wrong = wrong or shape_problems(shape, names | {"n_kv_heads": "num_key_value_heads"})
        if not wrong and config.get("head_dim") not in (None, shape["dim"] // shape["n_heads"]):
            wrong.append(f"head_dim {config['head_dim']} is not hidden_size / num_attention_heads")
        if wrong:
            raise ValueError(f"{path}: {'; '.join(wrong)}; fetch it again, or take LLaMA-2")
        return shape

    def _meta_name(self, path: Path, name: str) -> str:
        stem = name.removesuffix(".weight")
        if stem in self.TOP:
            return f"{self.TOP[stem]}.weight"
        parts = stem.split(".", 3)  # model.layers.N.rest
        if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in self.LAYER:
            return f"layers.{parts[2]}.{self.LAYER[parts[3]]}.weight"
        raise ValueError(f"{path}: parameter {name!r:.90} does not belong to LLaMA; take the weights of a LLaMA")

    def reader(self, partition_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """A function from name to the whole tensor; mapped, but for query and key rows, which are reordered."""
        files = {path: SafetensorsFile(path) for path in self.files}
        heads = {"wq": self.shape["n_heads"], "wk": self.shape["n_kv_heads"]}

        def read(name: str) -> Tensor:
            path, theirs = self.where[name]
            tensor = files[path].tensor(theirs)
            n_heads = heads.get(name.split(".")[-2])
            if n_heads is None:
                return tensor
            if tensor.ndim != 2 or len(tensor) % (2 * n_heads):
                raise ValueError(
                    f"{path}: {theirs} has shape {tuple(tensor.shape)} for {n_heads} heads; fetch it again"
                )
            return permute_rotary_halves(tensor, n_heads)

        return read


def permute_rotary_halves(rows: Tensor, n_heads: int) -> Tensor:
    """Query or key rows (H · head_dim, D) from halves (all first, then all second of a pair) to pairs side by side."""
    return rows.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


class SafetensorsFile:
    """One safetensors file: 8 bytes of header length, a JSON header, raw little-endian tensors; memory-mapped."""

    DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

    def __init__(self, path: Path) -> None:
        self.path, size = path, path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"{path}: cut short: a header of {length} bytes in a file of {size}; fetch it again")
            try:
                self.entries = json.loads(file.read(length))
                self.entries.pop("__metadata__", None)
                self.begin = 8 + length
                damaged = [
                    name for name, entry in self.entries.items() if not self._fits(name, entry, size - self.begin)
                ]
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path}: header is not a table of tensors ({error}); fetch it again") from error
            if damaged:
                raise ValueError(f"{path}: cut short or damaged at {damaged[0]}; fetch it again")
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _fits(self, name: str, entry: dict, room: int) -> bool:
        """Whether the tensor's bytes lie within the file and are as many as its shape needs."""
        if entry["dtype"] not in self.DTYPES:
            raise ValueError(f"{name} has number format {entry['dtype']}; {', '.join(self.DTYPES)} are read")
        first, last = entry["data_offsets"]
        size = math.prod(entry["shape"]) * self.DTYPES[entry["dtype"]].itemsize
        whole = all(type(n) is int and n > 0 for n in (*entry["shape"], last))
        return whole and type(first) is int and 0 <= first <= last <= room and last - first == size

    def tensor(self, name: str) -> Tensor:
        """The named tensor, a view of the file."""
        entry = self.entries[name]
        offset, count = self.begin + entry["data_offsets"][0], math.prod(entry["shape"])
        return torch.frombuffer(self.map, dtype=self.DTYPES[entry["dtype"]], offset=offset, count=count).view(
            entry["shape"]
        )
