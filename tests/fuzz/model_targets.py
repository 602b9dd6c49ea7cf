"""Readers of embeddings, weights, pictures and adapters to fuzz, and a good file for each."""

from collections.abc import Callable
from pathlib import Path

from llama.tokenizer import Tokenizer
from preprocess.modalities.images import open_image
from preprocess.modalities.shards import UnusableInputError
from tests.support.bad_files import DATA, GRAPH, TXT, write_everything
from tests.support.small_data import N_ITEMS
from tests.support.small_llama import load, write_every_layout
from tests.support.small_model import small_hellm, tokenizer
from utils.data.embeddings import load_embedding
from utils.data.features import load_features
from utils.data.interactions import Interactions
from utils.training.adapter_file import load_adapter, save_adapter


def open_picture(path: Path) -> None:
    """Open a picture; one that cannot be used is a ValueError."""
    try:
        open_image(path, 100_000)
    except UnusableInputError as error:
        raise ValueError(str(error)) from error


def model_targets(root: Path, adapter: str) -> dict[str, tuple[Path, Callable]]:
    """Write the files below a folder; return target -> the file to fuzz, and the function that reads it."""
    root.mkdir()
    write_everything(root)
    write_every_layout(root, n_shards=1)
    tokenizer(root / "tokenizer.model")
    save_adapter(small_hellm(), root / adapter)
    data = root / DATA
    return {
        "interactions": (data / TXT, lambda path: Interactions(path, 50)),
        "table": (data / GRAPH, load_embedding),
        "npy": (data / "image_feat.npy", lambda path: load_features(path, N_ITEMS)),
        "npz": (data / "tags_feat.npz", lambda path: load_features(path, N_ITEMS)),
        "picture": (data / "pictures" / "A0.png", open_picture),
        "params": (root / "meta" / "params.json", lambda path: load(path.parent)),
        "pth": (root / "meta" / "consolidated.00.pth", lambda path: load(path.parent)),
        "config": (root / "hf" / "config.json", lambda path: load(path.parent)),
        "safetensors": (root / "hf" / "model.safetensors", lambda path: load(path.parent)),
        "index": (root / "sharded" / "model.safetensors.index.json", lambda path: load(path.parent)),
        "gguf": (root / "small.gguf", load),
        "tokenizer": (root / "tokenizer.model", lambda path: Tokenizer(path).encode("Below is an instruction")),
        "adapter": (root / adapter, lambda path: load_adapter(small_hellm(), path)),
    }
