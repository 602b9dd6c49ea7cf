"""Base weights in Meta's or Hugging Face's layout, read by Meta's parameter names.

Files are memory-mapped, and opened again for every group of parameters: that returns the memory of pages that have been
copied. A tensor that needs no change is not copied at all.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llama.tensor_file import TensorFile
from llama.tokenizer import Tokenizer, tokenizer_files
from llama.weight_listing import hugging_face_files, meta_files
from llama.weight_shapes import check_begin_token, read_config_json, read_json, read_params_json

TOKEN_TABLE = "tok_embeddings.weight"
BEGIN_TOKEN = 1  # LLaMA-2's begin-of-sequence token, and what a config.json without another means
LLAMA3_VOCABULARY = 128256
LLAMA3_BEGIN_TOKEN = 128000


class MetaFolder:
    """Meta's layout: `params.json` and one or several files, each with a slice of every split parameter.

    LLaMA-2 splits the token table by columns, Llama-3 by rows. Some releases keep every parameter in one of the files.

    Attributes:
        shape: The ModelArgs fields that the files state.
        names: The parameters that the files hold.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = read_params_json(folder / "params.json")
        self.files = [TensorFile(path) for path in meta_files(folder)]
        self.names = set().union(*(file.names for file in self.files))
        n_names = sum(len(file.names) for file in self.files)
        self.sliced = len(self.files) > 1 and n_names > len(self.names)
        for file in self.files if self.sliced else ():
            if file.names != self.names:
                name = sorted(self.names - file.names)[0]
                raise ValueError(
                    f"{file.path}: {name} is not in all of the {len(self.files)} shards; download them again"
                )
        self.table_dim = 1  # along which the token table is split
        if TOKEN_TABLE in self.names:
            self._set_vocab_size()

    def _set_vocab_size(self) -> None:
        """Take the vocabulary size from the token table, as params.json may say -1; check that no slice is missing."""
        stated = self.shape.get("vocab_size", 0)
        dim = self.shape.get("dim")
        file = next(file for file in self.files if TOKEN_TABLE in file.names)
        rows, columns = [*file.open()(TOKEN_TABLE).shape, 0, 0][:2]
        n_slices = len(self.files) if self.sliced else 1
        if n_slices > 1 and columns == dim:
            self.table_dim = 0
            rows *= n_slices
        elif columns * n_slices != dim:
            raise ValueError(
                f"{self.folder}: {TOKEN_TABLE} has {columns} columns in each of {n_slices} shards, dim is {dim}: "
                "download the missing consolidated.*.pth, or all files again"
            )
        if rows < stated or (self.table_dim == 0 and stated and rows != stated):
            raise ValueError(
                f"{self.folder}: {TOKEN_TABLE} has {rows} rows in {n_slices} shards, vocab_size is {stated}: "
                "download the missing consolidated.*.pth, or all files again"
            )
        self.shape["vocab_size"] = rows

    def begin_token(self) -> int:
        """Return the begin-of-sequence token: that of the SentencePiece tokenizer, or else the published one."""
        files = tokenizer_files(self.folder)
        if files and files[0].name == "tokenizer.model":
            token = Tokenizer(files[0]).model.bos_id()
            return check_begin_token(files[0], "bos_id", token, self.shape["vocab_size"])
        return LLAMA3_BEGIN_TOKEN if self.shape["vocab_size"] == LLAMA3_VOCABULARY else BEGIN_TOKEN

    def reader(self, shard_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """Return a function from a parameter's name to its unsharded tensor.

        A tensor is mapped to the file if one file holds all of it; otherwise its slices are concatenated.

        Args:
            shard_dims: the dimension along which each parameter is split, None if it is not.
        """
        readers = [(file, file.open()) for file in self.files]

        def read(name: str) -> Tensor:
            dim = self.table_dim if name == TOKEN_TABLE else shard_dims[name]
            slices = {file.path: tensor_of(name) for file, tensor_of in readers if name in file.names}
            first = next(iter(slices.values()))
            if len(slices) == 1 or dim is None:
                return first
            if len({part.shape for part in slices.values()}) > 1 or first.ndim <= dim:
                shapes = ", ".join(f"{tuple(part.shape)} in {path}" for path, part in slices.items())
                raise ValueError(f"{name} differs in shape: {shapes}; download the shards again")
            return torch.cat([*slices.values()], dim)

        return read


class HuggingFaceFolder:
    """Hugging Face's layout: `config.json` and the files that transformers would read.

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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = read_config_json(folder / "config.json")
        self.files = [TensorFile(path) for path in hugging_face_files(folder)]
        self.locations: dict[str, tuple[Path, str]] = {}  # Meta's name -> file, name in the file
        for file in self.files:
            for name in file.names:
                if not name.endswith("rotary_emb.inv_freq"):  # computed by the model
                    self._locate(file.path, name)
        self.names = set(self.locations)

    def _locate(self, path: Path, name: str) -> None:
        """Note where a parameter is; refuse one that is there already."""
        meta_name = self._meta_name(path, name)
        if meta_name in self.locations:
            other = self.locations[meta_name][0]
            raise ValueError(f"{path}: {name!r:.90} is in {other.name}, too; remove the file that does not count")
        self.locations[meta_name] = path, name

    def _meta_name(self, path: Path, name: str) -> str:
        """Translate a tensor's name in a file to Meta's; a model saved without its head lacks the leading `model.`."""
        stem = name.removesuffix(".weight")
        if not stem.startswith(("model.", "lm_head")):
            stem = f"model.{stem}"
        if stem in self.TOP:
            return f"{self.TOP[stem]}.weight"
        parts = stem.split(".", 3)  # model.layers.N.rest
        if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in self.LAYER:
            return f"layers.{parts[2]}.{self.LAYER[parts[3]]}.weight"
        raise ValueError(f"{path}: parameter {name!r:.90} does not belong to LLaMA; take the weights of a LLaMA")

    def begin_token(self) -> int:
        """Return the begin-of-sequence token that `config.json` states."""
        path = self.folder / "config.json"
        token = read_json(path).get("bos_token_id", BEGIN_TOKEN)
        return check_begin_token(path, "bos_token_id", token, self.shape["vocab_size"])

    def reader(self, shard_dims: dict[str, int | None]) -> Callable[[str], Tensor]:
        """Return a function from a parameter's name to its tensor.

        Tensors are mapped to the file, except query and key matrices, whose rows are reordered.
        """
        readers = {file.path: file.open() for file in self.files}
        n_heads_of = {"wq": self.shape["n_heads"], "wk": self.shape["n_kv_heads"]}

        def read(name: str) -> Tensor:
            path, file_name = self.locations[name]
            tensor = readers[path](file_name)
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
