"""Base weights in Meta's or Hugging Face's layout, read by Meta's parameter names.

Files are memory-mapped, and opened again for every group of parameters: that returns the memory of pages that have been
copied. A tensor that needs no change is not copied at all.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama.torch_file import error_reason, is_dense_tensor, load_torch_file

DOWNLOAD_HINT = (
    "LLaMA-2 is licensed by Meta: ask at llama.com/llama-downloads (params.json, consolidated.*.pth, tokenizer.model) "
    "or take meta-llama/Llama-2-7b-hf from Hugging Face (config.json, *.safetensors, tokenizer.model)"
)

# Largest sizes that a file may state. A model is built before its tensors are read, so a wrong size would cost memory.
INT_LIMITS = {"dim": 2**16, "n_layers": 2**10}
DEFAULT_INT_LIMIT = 2**24
FLOAT_LIMITS = {"norm_eps": 1.0, "rope_theta": math.inf, "ffn_dim_multiplier": math.inf}  # exclusive
OPTIONAL_SIZES = ("n_kv_heads", "ffn_dim_multiplier")


def shape_problems(shape: dict, file_keys: dict[str, str] | None = None) -> list[str]:
    """List what is wrong with the model sizes that a file states, one phrase per problem.

    Args:
        shape: ModelArgs fields with the values from the file, of any type.
        file_keys: the file's key for each field, where that is another than the field's name.
    """
    problems = []
    for field, value in shape.items():
        if value is None and field in OPTIONAL_SIZES:
            continue
        if field in FLOAT_LIMITS:
            valid = type(value) in (int, float) and 0 < value < FLOAT_LIMITS[field]
            expected = f"a number between 0 and {FLOAT_LIMITS[field]}"
        else:
            largest = INT_LIMITS.get(field, DEFAULT_INT_LIMIT)
            valid = type(value) is int and 1 <= value <= largest
            expected = f"an integer from 1 to {largest}"
        if not valid:
            key = (file_keys or {}).get(field, field)
            problems.append(f"{key} is {value!r:.60} ({expected} is expected)")
    if not problems and {"dim", "n_heads"} <= shape.keys():
        dim = shape["dim"]
        n_heads = shape["n_heads"]
        n_kv_heads = shape.get("n_kv_heads") or n_heads
        if dim % (2 * n_heads):  # rotary position embedding rotates pairs of columns
            problems.append(f"{dim} columns do not divide into {n_heads} heads of an even number of columns")
        elif n_heads % n_kv_heads:
            problems.append(f"{n_heads} heads cannot share {n_kv_heads} key-value heads evenly")
    return problems


def read_json(path: Path) -> dict:
    """Read an object from a small JSON file.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is not JSON, with the line, or its content is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, found {type(content).__name__}; download it again")
    return content


class MetaFolder:
    """Meta's layout: `params.json` and one or several `consolidated.NN.pth`, each a slice of every split parameter.

    Attributes:
        shape: The ModelArgs fields that the files state.
        names: The parameters that the files hold.
    """

    SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps", "rope_theta")

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("consolidated.*.pth"))
        if not self.files:
            raise FileNotFoundError(f"{folder}: params.json without consolidated.*.pth; {DOWNLOAD_HINT}")
        params_file = folder / "params.json"
        params = read_json(params_file)
        if params.get("use_scaled_rope"):
            raise ValueError(f"{params_file}: use_scaled_rope is true; take LLaMA-2, where it is false")
        self.shape = {key: params[key] for key in self.SIZES if key in params}
        if problems := shape_problems(self.shape):
            raise ValueError(f"{params_file}: {'; '.join(problems)}; download it again")

        shards = self._load_shards()
        self.names = set(shards[0])
        for path, shard in zip(self.files, shards, strict=True):
            if set(shard) != self.names:
                name = sorted(set(shard) ^ self.names)[0]
                raise ValueError(f"{path}: {name} is not in all of the {len(shards)} shards; download them again")
        if "tok_embeddings.weight" in self.names:
            self._set_vocab_size(folder, shards)

    def _set_vocab_size(self, folder: Path, shards: list[dict[str, Tensor]]) -> None:
        """Take the vocabulary size from the embeddings, as params.json may say -1, and check that no shard is missing.

        Each shard holds a slice of the columns of tok_embeddings.weight.
        """
        rows, columns = [*shards[0]["tok_embeddings.weight"].shape, 0, 0][:2]
        self.shape["vocab_size"] = rows
        if columns * len(shards) != self.shape.get("dim"):
            raise ValueError(
                f"{folder}: tok_embeddings.weight has {columns} columns in each of {len(shards)} shards, dim is "
                f"{self.shape.get('dim')}: download the missing consolidated.*.pth, or all files again"
            )

    def _load_shards(self) -> list[dict[str, Tensor]]:
        """Map all files to memory; check that each holds nothing but floating-point tensors by name."""
        shards = [load_torch_file(path, mapped=True) for path in self.files]
        for path, shard in zip(self.files, shards, strict=True):
            if not isinstance(shard, dict) or not all(isinstance(name, str) for name in shard):
                raise ValueError(
                    f"{path}: tensors by name are expected, found {type(shard).__name__}; download it again"
                )
            for name, tensor in shard.items():
                if not is_dense_tensor(tensor) or not tensor.is_floating_point():
                    raise ValueError(f"{path}: {name!r:.60} is not a dense floating-point tensor; download it again")
        return shards

    def reader(self, shard_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """Return a function from a parameter's name to its unsharded tensor.

        A tensor is mapped to the file if one file holds all of it; otherwise its slices are concatenated.

        Args:
            shard_dims: the dimension along which each parameter is split, None if it is not.
        """
        shards = self._load_shards()

        def read(name: str) -> Tensor:
            dim = shard_dims[name]
            if len(shards) == 1 or dim is None:
                return shards[0][name]
            slices = [shard[name] for shard in shards]
            if len({part.shape for part in slices}) > 1 or slices[0].ndim <= dim:
                shapes = ", ".join(f"{tuple(t.shape)} in {path}" for t, path in zip(slices, self.files, strict=True))
                raise ValueError(f"{name} differs in shape: {shapes}; download the shards again")
            return torch.cat(slices, dim)

        return read


class HuggingFaceFolder:
    """Hugging Face's layout: `config.json` and `model.safetensors`, or the shards that an index lists.

    Attributes:
        shape: The ModelArgs fields that `config.json` states.
        names: The parameters that the files hold, by Meta's names.
    """

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
    SIZES = {
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "vocab_size": "vocab_size",
        "ffn_dim": "intermediate_size",
        "norm_eps": "rms_norm_eps",
    }

    def __init__(self, folder: Path) -> None:
        self.shape = self._read_shape(folder / "config.json")
        self.files = self._list_files(folder)
        self.locations: dict[str, tuple[Path, str]] = {}  # Meta's name -> file, name in the file
        for path in self.files:
            for name in open_safetensors(path).offset_keys():
                if not name.endswith("rotary_emb.inv_freq"):  # computed by the model
                    self.locations[self._meta_name(path, name)] = (path, name)
        self.names = set(self.locations)

    @staticmethod
    def _list_files(folder: Path) -> list[Path]:
        index = folder / "model.safetensors.index.json"
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ValueError(f"{index}: weight_map, from tensor to file, is missing; download it again")
            # Names are reduced to their last part, so that no index leads out of the folder.
            files = sorted({folder / Path(str(name)).name for name in weight_map.values()})
        else:
            files = sorted(folder.glob("*.safetensors"))
        missing = [str(path) for path in files if not path.exists()]
        if missing or not files:
            raise FileNotFoundError(f"{', '.join(missing) or folder}: safetensors file missing; {DOWNLOAD_HINT}")
        return files

    @classmethod
    def _read_shape(cls, path: Path) -> dict:
        """Read the sizes from `config.json`; check that it asks for nothing that the model lacks."""
        config = read_json(path)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{path}: rope_parameters is {rope!r:.60} (an object is expected); download it again")
        found_and_supported = {
            "model_type": (config.get("model_type"), "llama"),
            "hidden_act": (config.get("hidden_act", "silu"), "silu"),
            "attention_bias": (config.get("attention_bias", False), False),
            "mlp_bias": (config.get("mlp_bias", False), False),
            "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        }
        problems = [
            f"{key} is {found} ({supported} is supported)"
            for key, (found, supported) in found_and_supported.items()
            if found != supported
        ]

        shape = {field: config.get(key) for field, key in cls.SIZES.items()}
        shape["n_kv_heads"] = shape["n_kv_heads"] or shape["n_heads"]
        shape["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10000.0))
        problems = problems or shape_problems(shape, cls.SIZES)
        if not problems and config.get("head_dim") not in (None, shape["dim"] // shape["n_heads"]):
            problems.append(f"head_dim {config['head_dim']} is not hidden_size / num_attention_heads")
        if problems:
            raise ValueError(f"{path}: {'; '.join(problems)}; download it again, or take LLaMA-2")
        return shape

    def _meta_name(self, path: Path, name: str) -> str:
        """Translate a tensor's name in a file to Meta's."""
        stem = name.removesuffix(".weight")
        if stem in self.TOP:
            return f"{self.TOP[stem]}.weight"
        parts = stem.split(".", 3)  # model.layers.N.rest
        if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in self.LAYER:
            return f"layers.{parts[2]}.{self.LAYER[parts[3]]}.weight"
        raise ValueError(f"{path}: parameter {name!r:.90} does not belong to LLaMA; take the weights of a LLaMA")

    def reader(self, shard_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """Return a function from a parameter's name to its tensor.

        Tensors are mapped to the file, except query and key matrices, whose rows are reordered.
        """
        files = {path: open_safetensors(path) for path in self.files}
        n_heads_of = {"wq": self.shape["n_heads"], "wk": self.shape["n_kv_heads"]}

        def read(name: str) -> Tensor:
            path, file_name = self.locations[name]
            tensor = files[path].get_tensor(file_name)
            n_heads = n_heads_of.get(name.split(".")[-2])
            if n_heads is None:
                return tensor
            if tensor.ndim != 2 or not len(tensor) or len(tensor) % (2 * n_heads):
                shape = tuple(tensor.shape)
                raise ValueError(f"{path}: {file_name} has shape {shape} for {n_heads} heads; download it again")
            return permute_rotary_halves(tensor, n_heads)

        return read


def permute_rotary_halves(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder query or key rows (n_heads · head_dim, dim) from Hugging Face's order to Meta's.

    Rotary position embedding rotates pairs of rows of a head: Hugging Face stores the first rows of all pairs, then the
    second ones; Meta stores the two rows of a pair next to each other.
    """
    return rows.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def open_safetensors(path: Path) -> safe_open:
    """Open a safetensors file; its tensors are mapped to memory.

    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is cut short or damaged, or holds something else than floating-point tensors.
    """
    path.open("rb").close()  # raises Python's own error, which names the path
    try:
        file = safe_open(path, framework="pt")
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.offset_keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut short or damaged ({error_reason(error)}); download it again") from error
    for name, dtype in dtypes.items():
        if dtype not in ("F64", "F32", "F16", "BF16"):
            raise ValueError(f"{path}: {name!r:.90} has dtype {dtype}; take weights in F64, F32, F16 or BF16")
    return file
