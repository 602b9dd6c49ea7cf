"""Coverage-guided fuzzing of what reads a user's files: each may be refused in one line, and nothing else may happen.

    pip install -r requirements.txt -r requirements-dev.txt -r requirements-extras.txt
    python tests/fuzz/fuzz_readers.py interactions -max_total_time=600 [CORPUS]

Flags are libFuzzer's; without a corpus, the folder of which comes last, it starts from one good file. A finding is
written into the current folder, as `crash-…`, and read again when its path is given in the corpus' place.
"""

import gzip
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["llama", "preprocess", "utils", "gguf", "html"]):
    import torch

    from llama.checkpoint import load_base_weights, open_checkpoint
    from llama.model import ModelArgs, Transformer
    from llama.tokenizer import Tokenizer
    from preprocess.modalities.images import open_image
    from preprocess.modalities.shards import UnusableInputError
    from preprocess.pretraining.hypergraph import load_features
    from preprocess.raw.amazon_releases import load_items, load_reviews
    from preprocess.raw.item_files import read_image_urls, read_item_ids, read_texts
    from tests.support.bad_files import DATA, GRAPH, META, RAW, REVIEWS, TXT, write_everything
    from tests.support.small_data import N_ITEMS
    from tests.support.small_gguf import write_gguf
    from tests.support.small_llama import reference
    from tests.support.small_model import SHAPE, small_hellm, tokenizer, write_meta
    from utils.data.embeddings import load_embedding
    from utils.data.interactions import Interactions
    from utils.training.adapter_file import load_adapter, save_adapter


def load(folder: Path) -> None:
    """All base weights of a folder or file."""
    args = ModelArgs(**open_checkpoint(folder).shape, max_seq_len=16)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, folder, torch.float32)


def write_weights(place: Path) -> None:
    """A folder of each layout, a GGUF file, a tokenizer and an adapter."""
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    state = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(place / "meta", state, SHAPE)
    model = reference(n_kv_heads=4)
    model.save_pretrained(place / "hf")
    model.save_pretrained(place / "sharded", max_shard_size="20KB")
    write_gguf(place / "small.gguf", model)
    tokenizer(place / "tokenizer.model")
    save_adapter(small_hellm(), place / "best_adapter.pt")


def targets(place: Path) -> dict:
    """Name to the file that is replaced and what reads it then."""
    data, raw, pictures = place / DATA, place / RAW, place / DATA / "pictures"
    return {
        "interactions": (data / TXT, lambda path: Interactions(path, 50)),
        "table": (data / GRAPH, load_embedding),
        "npy": (data / "image_feat.npy", lambda path: load_features(path, N_ITEMS)),
        "texts": (data / "item_text.tsv", lambda path: read_texts(path, N_ITEMS)),
        "addresses": (data / "item_image.tsv", lambda path: read_image_urls(path.parent, N_ITEMS)),
        "asins": (data / "i_id_mapping.csv", lambda path: read_item_ids(path.parent, N_ITEMS)),
        "reviews": (raw / REVIEWS, load_reviews),
        "reviews_json": (raw / "Small.jsonl.gz", load_reviews),
        "metadata": (raw / META, lambda path: load_items(path, ["A", "B"])),
        "metadata_json": (raw / "meta_Small.jsonl.gz", lambda path: load_items(path, ["A", "B"])),
        "gzip": (raw / "zipped.json.gz", load_reviews),
        "picture": (pictures / "A0.png", lambda path: open_image(path, 100_000)),
        "params": (place / "meta" / "params.json", lambda path: load(path.parent)),
        "pth": (place / "meta" / "consolidated.00.pth", lambda path: load(path.parent)),
        "config": (place / "hf" / "config.json", lambda path: load(path.parent)),
        "safetensors": (place / "hf" / "model.safetensors", lambda path: load(path.parent)),
        "index": (place / "sharded" / "model.safetensors.index.json", lambda path: load(path.parent)),
        "gguf": (place / "small.gguf", load),
        "tokenizer": (place / "tokenizer.model", lambda path: Tokenizer(path).encode("Below is an instruction")),
        "adapter": (place / "best_adapter.pt", lambda path: load_adapter(small_hellm(), path)),
    }


def unpacked(path: Path, name: str) -> bytes:
    """What is fuzzed of a file: without compression, and of a PyTorch file the pickle, as all else has checksums."""
    if path.suffix in (".pt", ".pth"):
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" and name != "gzip" else content


def packed(path: Path, pickle: bytes) -> None:
    """Replace the pickle of a PyTorch file."""
    good = path.with_suffix(".good")
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, pickle if entry.endswith("data.pkl") else old.read(entry))


def prepared(place: Path) -> Path:
    """A good file of every kind below a folder."""
    write_everything(place)
    write_weights(place)
    shutil.copy(place / RAW / REVIEWS, place / RAW / "zipped.json.gz")
    return place


def fuzz(place: Path, name: str, flags: list[str]) -> None:
    """Fuzz one target until a finding or what the flags say; ends the process."""
    path, read = targets(place)[name]
    shutil.copy(path, path.with_suffix(".good"))
    corpus = place / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(unpacked(path, name))

    def one(content: bytes) -> None:
        packed(path, content) if path.suffix in (".pt", ".pth") else path.write_bytes(content)
        try:
            read(path)
        except (ValueError, OSError, UnusableInputError) as error:
            if not str(error).strip():
                raise AssertionError(f"{type(error).__name__} without a message") from error

    given = any(not flag.startswith("-") for flag in flags)
    atheris.Setup([sys.argv[0], *flags, *([] if given else [str(corpus)])], one)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(prepared(Path(tempfile.mkdtemp())), sys.argv[1], sys.argv[2:])
