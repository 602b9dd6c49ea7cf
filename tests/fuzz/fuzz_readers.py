"""Coverage-guided fuzzing of the readers of users' files: a reader may refuse a file with a message, and nothing else.

    pip install -r requirements.txt -r requirements-dev.txt -r requirements-extras.txt
    python tests/fuzz/fuzz_readers.py interactions -max_total_time=600 [CORPUS]

The first argument is a target (`targets`), flags are libFuzzer's, and the last argument may be the folder of a corpus;
without one, fuzzing starts from one good file. A finding is written to the current folder as `crash-…`; to read it
again, give its path in place of the corpus.
"""

import csv
import gzip
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["llama", "preprocess", "utils", "gguf", "html"]):
    from llama.tokenizer import Tokenizer
    from preprocess.modalities.images import open_image
    from preprocess.modalities.shards import UnusableInputError
    from preprocess.raw.amazon_releases import load_items, load_reviews
    from preprocess.raw.item_files import read_image_urls, read_item_ids, read_texts
    from preprocess.raw.skipped_lines import SkippedLines
    from preprocess.raw.table import ITEMS, Table
    from tests.support.bad_files import DATA, GRAPH, META, RAW, REVIEWS, TABLE, TXT, write_everything
    from tests.support.bad_files import ITEMS as ITEM_TABLE
    from tests.support.small_data import N_ITEMS
    from tests.support.small_llama import load, write_every_layout
    from tests.support.small_model import small_hellm, tokenizer
    from utils.data.embeddings import load_embedding
    from utils.data.features import load_features
    from utils.data.interactions import Interactions
    from utils.io.checksums import CHECKSUM_TRAILER, file_crc32
    from utils.training.adapter_file import load_adapter, save_adapter

ADAPTER = "best_adapter.pt"


def write_good_files(root: Path) -> None:
    """Write a valid file of every kind below a folder."""
    write_everything(root)
    shutil.copy(root / RAW / REVIEWS, root / RAW / "zipped.json.gz")
    lines = gzip.decompress((root / RAW / "meta_Small.jsonl.gz").read_bytes()).splitlines()
    entries = [json.loads(line) for line in lines]
    (root / RAW / "meta_array.json").write_text(json.dumps(entries))
    with (root / RAW / "meta_table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, entries[0])
        writer.writeheader()
        writer.writerows(entries)
    write_every_layout(root, n_shards=1)
    tokenizer(root / "tokenizer.model")
    save_adapter(small_hellm(), root / ADAPTER)


def read_table(table: Table) -> int:
    """Read all columns of a table; return the number of records."""
    table.describe()
    return sum(1 for _ in table.rows(list(range(len(table.names)))))


def load_most_reviews(path: Path) -> None:
    """Read reviews, and pass over up to half of them."""
    read = load_reviews(path, SkippedLines(path, "review", 0.5))
    "".join(read.user_ids + read.item_ids).encode("ascii")


def load_most_items(path: Path) -> None:
    """Read metadata, pass over up to half of it, and check that what is left can be written, an item on a line."""
    items, _ = load_items(path, ["A", "B"], SkippedLines(path, "metadata", 0.5))
    for item in filter(None, items):
        texts = "\t".join((item.title, item.brand, item.categories, item.description, item.image))
        texts.encode()
        if texts.count("\t") != 4 or len(texts.splitlines()) > 1:
            raise AssertionError(f"not on one line: {texts!r}")


def targets(root: Path) -> dict:
    """Return target -> the file to fuzz, and the function that reads it."""
    data = root / DATA
    raw = root / RAW
    return {
        "interactions": (data / TXT, lambda path: Interactions(path, 50)),
        "table": (data / GRAPH, load_embedding),
        "npy": (data / "image_feat.npy", lambda path: load_features(path, N_ITEMS)),
        "npz": (data / "tags_feat.npz", lambda path: load_features(path, N_ITEMS)),
        "texts": (data / "item_text.tsv", lambda path: read_texts(path, N_ITEMS)),
        "addresses": (data / "item_image.tsv", lambda path: read_image_urls(path.parent, N_ITEMS)),
        "asins": (data / "i_id_mapping.csv", lambda path: read_item_ids(path.parent, N_ITEMS)),
        "own_table": (raw / TABLE, lambda path: read_table(Table(path))),
        "own_items": (raw / ITEM_TABLE, lambda path: read_table(Table(path, ITEMS))),
        "reviews": (raw / REVIEWS, load_most_reviews),
        "reviews_json": (raw / "Small.jsonl.gz", load_most_reviews),
        "metadata": (raw / META, load_most_items),
        "metadata_json": (raw / "meta_Small.jsonl.gz", load_most_items),
        "metadata_array": (raw / "meta_array.json", load_most_items),
        "metadata_table": (raw / "meta_table.csv", load_most_items),
        "gzip": (raw / "zipped.json.gz", load_reviews),
        "picture": (data / "pictures" / "A0.png", lambda path: open_image(path, 100_000)),
        "params": (root / "meta" / "params.json", lambda path: load(path.parent)),
        "pth": (root / "meta" / "consolidated.00.pth", lambda path: load(path.parent)),
        "config": (root / "hf" / "config.json", lambda path: load(path.parent)),
        "safetensors": (root / "hf" / "model.safetensors", lambda path: load(path.parent)),
        "index": (root / "sharded" / "model.safetensors.index.json", lambda path: load(path.parent)),
        "gguf": (root / "small.gguf", load),
        "tokenizer": (root / "tokenizer.model", lambda path: Tokenizer(path).encode("Below is an instruction")),
        "adapter": (root / ADAPTER, lambda path: load_adapter(small_hellm(), path)),
    }


FUZZED_ENTRY = {".pt": "data.pkl", ".pth": "data.pkl", ".npz": "indptr.npy"}  # of a zip archive


def fuzzed_part(path: Path, name: str) -> bytes:
    """Return the part of a good file to fuzz: what is compressed in it, or one entry of a zip archive.

    The archive around the entry has checksums, which mutations would only break.
    """
    if path.suffix in FUZZED_ENTRY:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            return archive.read(next(entry for entry in entries if entry.endswith(FUZZED_ENTRY[path.suffix])))
    content = path.read_bytes()
    if path.suffix == ".gz" and name != "gzip":
        return gzip.decompress(content)
    return content


def write_fuzzed(path: Path, content: bytes) -> None:
    """Write a mutation of the part to fuzz, inside its archive and with a valid checksum, if the file has them."""
    if path.suffix not in FUZZED_ENTRY:
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as fuzzed:
        for entry in good.namelist():
            is_fuzzed = entry.endswith(FUZZED_ENTRY[path.suffix])
            fuzzed.writestr(entry, content if is_fuzzed else good.read(entry))
    if path.name == ADAPTER:
        crc = int(file_crc32(path), 16)
        with path.open("ab") as file:
            file.write(CHECKSUM_TRAILER % crc)


def fuzz(root: Path, name: str, arguments: list[str]) -> None:
    """Fuzz one target until there is a finding or libFuzzer's arguments end it, which also ends the process."""
    path, read = targets(root)[name]
    shutil.copy(path, path.with_suffix(".good"))
    corpus = root / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(fuzzed_part(path, name))

    def read_one(content: bytes) -> None:
        write_fuzzed(path, content)
        try:
            read(path)
        except (ValueError, OSError, UnusableInputError) as error:
            if not str(error).strip():
                raise AssertionError(f"{type(error).__name__} without a message") from error

    has_corpus = any(not argument.startswith("-") for argument in arguments)
    corpora = [] if has_corpus else [str(corpus)]
    atheris.Setup([sys.argv[0], *arguments, *corpora], read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    write_good_files(folder)
    fuzz(folder, sys.argv[1], sys.argv[2:])
