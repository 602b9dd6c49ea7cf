"""Item texts and pictures to feature matrices.

    python -m preprocess.features text --encoder tfidf --dataset Beauty
    python -m preprocess.features text --encoder bert --model_name PATH/bert-base-uncased --dataset Beauty
    python -m preprocess.features image --encoder clip --model_name PATH/clip-vit-base-patch32 --fetch --dataset Beauty

`text` reads `item_text.tsv` beside the interaction file (a header line, then item id, ASIN and texts, separated by
tabs). `image` reads a picture an item, `pictures/{asin}.jpg` (or .jpeg, .png, .webp, .gif) there; ASINs are in
`i_id_mapping.csv` or `item_image.tsv`, and `--fetch` first fetches the addresses in the latter. Both write float32
(items, width): `text_feat.npy`, `image_feat.npy`, or another modality's file with `--name`.

Shards of the items are saved in `{name}_feat.parts/`; the same command goes on after a run that was killed.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.modalities import encoders
from preprocess.modalities.download import FetchSettings, download_images
from preprocess.modalities.images import find_images, open_image
from preprocess.modalities.shards import (
    EncodingJob,
    UnusableInputError,
    digest,
    encode_in_shards,
    remove_parts,
    remove_stale_shards,
)
from preprocess.raw.item_files import UninformativeModalityError, read_image_urls, read_item_ids, read_texts
from utils.cli.errors import report_user_error
from utils.cli.flags import parse_settings
from utils.cli.validation import check_choices_and_names, check_numbers
from utils.data.batches import scoring_batches
from utils.data.interactions import Interactions
from utils.data.layout import require_files
from utils.io.atomic import atomic_write, save_array
from utils.runtime.distributed import resolve_device
from utils.runtime.lock import run_lock

TEXT_ENCODERS, IMAGE_ENCODERS = ("tfidf", "minilm", "bert"), ("clip", "histogram")
FROM_FOLDER = ("bert", "clip")


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of all encoders."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    model_name: str = ""  # local folder with a Hugging Face model: BERT for bert, CLIP for clip
    device: str = "auto"  # of bert and clip: cuda, cpu, …; auto: CUDA where there is one
    batch_size: int = 64  # items at a time through a model
    shard_size: int = 1024  # items between two savings, rounded up to whole batches
    whiten: bool = False  # centre the features and give all their directions one variance
    overwrite: bool = False  # replace features that are there already


@dataclass(frozen=True)
class TextSettings(FeatureSettings):
    """Settings of the text encoders."""

    encoder: str = "tfidf"  # tfidf: word weights, reduced; minilm: a small sentence encoder (optional package); bert
    name: str = "text"  # modality: NAME_feat.npy is written
    width: int = 2048  # columns of the tfidf features at most; more words are reduced by a truncated SVD


@dataclass(frozen=True)
class ImageSettings(FetchSettings, FeatureSettings):
    """Settings of the image encoders."""

    encoder: str = "clip"  # clip; histogram: of colours, needs no model
    name: str = "image"  # modality: NAME_feat.npy is written
    pictures: str = ""  # folder with the pictures, ASIN.jpg; DATA_DIR/sequential/DATASET/pictures when empty
    max_pixels: int = 50_000_000  # of a picture; larger ones count as broken and are not decoded


def validate_settings(settings: TextSettings | ImageSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    text = isinstance(settings, TextSettings)
    counts = ("width",) if text else ("connections", "max_bytes", "max_pixels")
    bounds = {} if text else {"positive": ("timeout",), "at_least_0": ("retries",)}
    problems = check_numbers(settings, at_least_1=("batch_size", "shard_size", *counts), **bounds)
    choices = {"encoder": TEXT_ENCODERS if text else IMAGE_ENCODERS}
    problems += check_choices_and_names(settings, choices, ("dataset", "name"))
    if settings.encoder in FROM_FOLDER and not settings.model_name:
        problems.append(f"--encoder {settings.encoder}: --model_name says in which local folder the model is")
    return problems


def job_key(settings: TextSettings | ImageSettings, device: str) -> dict:
    """What features depend on besides the items' inputs, as JSON has it; the model by its files' sizes and times."""
    model = None
    if settings.encoder in FROM_FOLDER:
        folder = Path(settings.model_name).resolve()
        model = [str(folder), digest([file_signature(path) for path in sorted(folder.iterdir())])]
    return {"encoder": settings.encoder, "model": model, "device": device, "batch_size": settings.batch_size}


def file_signature(path: Path) -> list:
    """What tells a file from another one: name, bytes, time of its last change."""
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def encode_text(settings: TextSettings) -> None:
    """Read the texts, write the features.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """
    path, n_items = output_path(settings, "item_text.tsv")
    texts = read_texts(path.with_name("item_text.tsv"), n_items)
    if settings.encoder == "tfidf":
        features, source = encoders.tfidf(texts, settings.width), None
    else:
        device = resolve_device(settings.device)
        bert = settings.encoder == "bert"
        encode = encoders.bert(Path(settings.model_name), device) if bert else encoders.minilm()
        filled = np.array([item for item, text in enumerate(texts) if text.strip()])
        length = np.array([len(texts[item]) for item in filled])
        batches = [filled[rows] for rows in scoring_batches(length, settings.batch_size)]
        known = job_key(settings, device.type)
        source = EncodingJob(n_items, batches, texts.__getitem__, texts.__getitem__, encode, known)
    with exclusive(path, settings.overwrite):
        if source:
            features, _ = encode_in_shards(path, source, shard_batches(settings))
        write(path, features, settings.whiten)
    empty = int((~features.any(1)).sum())
    print(f"{path}: {features.shape[0]:,} items x {features.shape[1]}, {empty:,} without text")


def encode_image(settings: ImageSettings) -> None:
    """Find the pictures, fetch them if that is wanted, write the features and which ones are missing.

    An item without a usable picture gets the mean of all others.

    Raises:
        FileNotFoundError, ValueError, OSError: naming file, place and remedy.
    """
    path, n_items = output_path(settings)
    asins = read_item_ids(path.parent, n_items)
    device = resolve_device(settings.device)
    if settings.encoder == "clip":
        prepare, encode = encoders.clip(Path(settings.model_name), device)
    else:
        prepare, encode = encoders.histogram, np.stack
    folder = Path(settings.pictures) if settings.pictures else path.parent / "pictures"
    absent, picture_of = collect_images(settings, folder, asins, path.parent)

    def read(item: int) -> np.ndarray:
        if item in absent:
            raise UnusableInputError(absent[item])
        return prepare(open_image(picture_of[item], settings.max_pixels))

    known = {**job_key(settings, device.type), "max_pixels": settings.max_pixels}
    batches = np.split(np.arange(n_items), range(settings.batch_size, n_items, settings.batch_size))
    stamps = {item: file_signature(picture) for item, picture in picture_of.items()}
    source = EncodingJob(n_items, batches, stamps.get, read, encode, known)
    with exclusive(path, settings.overwrite):
        features, missing = encode_in_shards(path, source, shard_batches(settings))
        missing |= absent  # saved shards know no newer reasons
        if len(missing) == n_items:
            remove_parts(path)
            raise UninformativeModalityError(
                f"{folder}: no picture of any item that can be read; the first one: {missing[0]}"
            )
        lost = sorted(missing)
        features[lost] = np.delete(features, lost, axis=0).mean(0, dtype=np.float64)
        lines = [f"{item}\t{asins[item]}\t{' '.join(missing[item].split())}" for item in lost]
        with atomic_write(path.with_name(f"{settings.name}_missing.tsv")) as temporary:
            temporary.write_text("\n".join(["item_id\tasin\treason", *lines]) + "\n", encoding="utf-8")
        write(path, features, settings.whiten)
    print(
        f"{path}: {n_items:,} items x {features.shape[1]}, {len(lost):,} without a picture: {settings.name}_missing.tsv"
    )


def collect_images(
    settings: ImageSettings, folder: Path, asins: list[str], dataset: Path
) -> tuple[dict[int, str], dict[int, Path]]:
    """Fetch pictures if that is wanted; returns why items have none, and the pictures of the others.

    Raises:
        FileNotFoundError, ValueError, OSError: naming file, place and remedy.
    """
    failures = {}
    if settings.fetch:
        addresses = {asins[item]: address for item, address in read_image_urls(dataset, len(asins)).items()}
        failures = download_images(addresses, folder, settings)
    elif not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; put pictures there, ASIN.jpg, or --fetch them")
    found = find_images(folder)
    absent = {
        item: failures.get(asin, "no picture" if asin else "no ASIN")
        for item, asin in enumerate(asins)
        if asin not in found
    }
    return absent, {item: found[asin] for item, asin in enumerate(asins) if asin in found}


def output_path(settings: TextSettings | ImageSettings, *needed: str) -> tuple[Path, int]:
    """Where the features go and how many items there are, once needed files are there and nothing would be lost."""
    interactions = f"{settings.dataset}.txt"
    folder = require_files(settings.data_dir, settings.dataset, [interactions, *needed])
    path = folder / f"{settings.name}_feat.npy"
    refuse_overwrite(path, settings.overwrite)
    return path, Interactions(folder / interactions, 0).n_items


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        remove_stale_shards(path)
        raise ValueError(f"{path}: there already; --overwrite replaces it")


@contextlib.contextmanager
def exclusive(path: Path, overwrite: bool) -> Iterator[None]:
    """Keep other runs from a matrix and its shards while the block goes on.

    Raises:
        ValueError: another run is at it, or has made it meanwhile.
    """
    with run_lock(path.with_suffix(""), "_", "--name"):
        refuse_overwrite(path, overwrite)
        yield


def shard_batches(settings: TextSettings | ImageSettings) -> int:
    """Batches a shard."""
    return -(-settings.shard_size // settings.batch_size)


def write(path: Path, features: np.ndarray, whiten: bool) -> None:
    save_array(path, encoders.whiten(features) if whiten else features)
    remove_parts(path)


PROGRAMS = {
    "text": (TextSettings, encode_text, "Encode item texts."),
    "image": (ImageSettings, encode_image, "Encode item pictures."),
}


def run(argv: list[str]) -> int:
    """Run the program; returns its exit status.

    Raises:
        Indistinct: the one mistake that a program with other modalities can go on from.
    """
    program = "python -m preprocess.features"
    if not argv or argv[0] not in PROGRAMS:
        return report_user_error(f"{program} text [flags], or {program} image [flags]")
    kind, encode, what = PROGRAMS[argv[0]]
    settings = parse_settings(kind, argv[1:], f"{program} {argv[0]}", what, validate_settings)
    try:
        encode(settings)
    except UninformativeModalityError:
        raise
    except (ValueError, OSError) as mistake:
        return report_user_error(mistake)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UninformativeModalityError as mistake:
        return report_user_error(mistake)


if __name__ == "__main__":
    sys.exit(main())
