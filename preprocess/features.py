"""Encode item texts and pictures as feature matrices.

    python -m preprocess.features text --encoder tfidf --dataset Beauty
    python -m preprocess.features text --encoder bert --model_name PATH/bert-base-uncased --dataset Beauty
    python -m preprocess.features text --encoder llama --model_name PATH/Llama-2-7b --dataset Beauty
    python -m preprocess.features image --encoder clip --model_name PATH/clip-vit-base-patch32 --fetch --dataset Beauty

    python -m preprocess.features import FILE --ids FILE --name image --dataset Beauty

`text` reads `item_text.tsv` beside the interaction file (a header, then item id, ASIN and texts, separated by tabs).
`image` reads one picture per item, `pictures/{asin}.jpg` (or .jpeg, .png, .webp, .gif), from the same folder; ASINs are
in `i_id_mapping.csv` or `item_image.tsv`, and `--fetch` first downloads the URLs in the latter. Both write float32
(items, width): `text_feat.npy`, `image_feat.npy`, or the file of another modality with `--name`. Those of tfidf are a
sparse matrix, `text_feat.npz`. Features in which no two items can be told apart are not written.

`import` puts the rows of a matrix that another program has made (.npy, .npz, .pt, or a table with a column of ids) in
the order of the items, and writes `NAME_ids.txt` beside them, by which other programs notice another order. Rows of
other items are left out, and items without a row get zeros.

Finished shards of items are saved in `{name}_feat.parts/`; re-run the same command to resume a killed run.
"""

import signal
import sys
from pathlib import Path

from preprocess.modalities.settings import (
    PRETRAINED,
    SPARSE_ENCODERS,
    ImageSettings,
    TextSettings,
    parse_args,
)

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_args()

import numpy as np

from preprocess.modalities import encoders
from preprocess.modalities.download import download_images
from preprocess.modalities.foreign_features import import_features
from preprocess.modalities.images import find_images, open_image
from preprocess.modalities.llama_encoder import llama
from preprocess.modalities.output import exclusive, refuse_overwrite, require_informative, write_features
from preprocess.modalities.shards import EncodingJob, UnusableInputError, digest, encode_in_shards, remove_shards
from preprocess.raw.item_files import (
    ITEM_TEXT_FILE,
    read_image_urls,
    read_item_ids,
    read_texts,
)
from preprocess.raw.summary import Summary, next_command
from utils.cli.errors import report_user_error
from utils.cli.progress import announce
from utils.data.batches import scoring_batches
from utils.data.feature_checks import UninformativeModalityError
from utils.data.ids import likely_cause, match_ids, show_examples
from utils.data.interactions import Interactions
from utils.data.layout import dataset_folder, require_files
from utils.io.atomic import atomic_write
from utils.runtime.distributed import resolve_device

# ---------------------------------------------------------------- the two programs


def encode_text(settings: TextSettings) -> None:
    """Read the item texts and write their features.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    path, n_items = output_path(settings, ITEM_TEXT_FILE)
    texts = read_texts(path.with_name(ITEM_TEXT_FILE), n_items, settings.columns)
    distinct = {" ".join(text.split()) for text in texts} - {""}
    if len(distinct) == 1 < sum(map(_has_text, texts)):
        raise UninformativeModalityError(f"{ITEM_TEXT_FILE}: all texts are {min(distinct)[:40]!r}; add others")
    job = None
    if settings.encoder == "tfidf":
        with announce(f"counting the words of {len(texts):,} texts"):
            features = encoders.tfidf(texts)
    else:
        job = _text_job(settings, texts)
    remedy = "add other texts, or take another --encoder"
    with exclusive(path, settings.overwrite):
        if job is not None:
            features, _ = encode_in_shards(path, job, batches_per_shard(settings))
        require_informative(path, features, remedy)
        write_features(path, encoders.whiten(features) if settings.whiten else features)
    summary = Summary(str(path))
    n_features = int((abs(features).sum(1) > 0).sum())
    summary.add_matched("texts", sum(map(_has_text, texts)), n_items, f"items in {ITEM_TEXT_FILE}")
    summary.add_matched("features", n_features, n_items, f"{features.shape[1]:,} columns; zeros for the others")
    print(summary.render(next_command("preprocess.pretrain_graph", settings)))


def _has_text(text: str) -> bool:
    return bool(text.strip())


def _text_job(settings: TextSettings, texts: list[str]) -> EncodingJob:
    """Load the model, and batch texts of similar length."""
    device = resolve_device(settings.device)
    match settings.encoder:
        case "bert":
            encode = encoders.bert(Path(settings.model_name), device)
        case "minilm":
            encode = encoders.minilm()
        case "llama":
            encode = llama(Path(settings.model_name), device)
        case unknown:
            raise ValueError(f"--encoder {unknown}: no encoder of texts has this name")
    items = np.array([item for item, text in enumerate(texts) if _has_text(text)])
    length = np.array([len(texts[item]) for item in items])
    batches = [items[rows] for rows in scoring_batches(length, settings.batch_size, positions_per_row=0)]
    return EncodingJob(
        n_items=len(texts),
        batches=batches,
        input_key=texts.__getitem__,
        read=texts.__getitem__,
        encode=encode,
        job_key=job_key(settings, device.type),
    )


def encode_image(settings: ImageSettings) -> None:
    """Find the pictures, download them with --fetch, and write their features and a list of the missing ones.

    An item without a usable picture gets the mean of all others.

    Raises:
        FileNotFoundError, ValueError, OSError: naming file, line and remedy.
    """
    path, n_items = output_path(settings)
    asins = read_item_ids(path.parent, n_items)
    device = resolve_device(settings.device)
    match settings.encoder:
        case "clip":
            prepare, encode = encoders.clip(Path(settings.model_name), device)
        case "histogram":
            prepare = encoders.histogram
            encode = np.stack
        case unknown:
            raise ValueError(f"--encoder {unknown}: no encoder of pictures has this name")
    folder = Path(settings.pictures) if settings.pictures else path.parent / "pictures"
    summary = Summary(str(path))
    absent, picture_of = _collect_images(settings, folder, asins, summary)

    def read(item: int) -> np.ndarray:
        if item in absent:
            raise UnusableInputError(absent[item])
        return prepare(open_image(picture_of[item], settings.max_pixels))

    signatures = {item: file_signature(picture) for item, picture in picture_of.items()}
    job = EncodingJob(
        n_items=n_items,
        batches=np.split(np.arange(n_items), range(settings.batch_size, n_items, settings.batch_size)),
        input_key=signatures.get,
        read=read,
        encode=encode,
        job_key={**job_key(settings, device.type), "max_pixels": settings.max_pixels},
    )
    with exclusive(path, settings.overwrite):
        features, missing = encode_in_shards(path, job, batches_per_shard(settings))
        missing |= absent  # a shard saved earlier may give an outdated reason
        if len(missing) == n_items:
            remove_shards(path)
            raise UninformativeModalityError(
                f"{folder}: no picture of any item that can be read; the first one: {missing[0]}"
                + _explain_names(folder, asins, picture_of)
            )
        without_picture = sorted(missing)
        features[without_picture] = np.delete(features, without_picture, axis=0).mean(0, dtype=np.float64)
        require_informative(path, features, "take other pictures, or another --encoder")
        lines = [f"{item}\t{asins[item]}\t{' '.join(missing[item].split())}" for item in without_picture]
        with atomic_write(path.with_name(f"{settings.name}_missing.tsv")) as temporary:
            temporary.write_text("\n".join(["item_id\tasin\treason", *lines]) + "\n", encoding="utf-8")
        write_features(path, encoders.whiten(features) if settings.whiten else features)
    remark = f"{features.shape[1]:,} columns"
    if without_picture:
        remark += f"; the others, and why, are in {settings.name}_missing.tsv and get the mean of all"
    summary.add_matched("features", n_items - len(without_picture), n_items, remark)
    print(summary.render(next_command("preprocess.pretrain_graph", settings)))


def _explain_names(folder: Path, asins: list[str], picture_of: dict[int, Path]) -> str:
    """Return why no picture has the name of an item, as the end of a message; empty if one has, or there is none."""
    names = find_images(folder)
    if picture_of or not names:
        return ""
    return f"; {show_examples(asins, names)}; {likely_cause(asins, names)}"


def _collect_images(
    settings: ImageSettings, folder: Path, asins: list[str], summary: Summary
) -> tuple[dict[int, str], dict[int, Path]]:
    """Download pictures with --fetch; return why items have none, and the pictures of the others, and count both."""
    failures = {}
    if settings.fetch:
        dataset = dataset_folder(settings.data_dir, settings.dataset)
        urls = {asins[item]: url for item, url in read_image_urls(dataset, len(asins)).items()}
        failures = download_images(urls, folder, settings)
        summary.add_matched("addresses", len(urls), len(asins), f"{len(failures):,} could not be fetched")
    elif not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; put pictures there, ASIN.jpg, or --fetch them")
    files = find_images(folder)
    match = match_ids([asin for asin in asins if asin], files)
    picture_of = {item: files[match.found[asin]] for item, asin in enumerate(asins) if asin in match.found}
    summary.add_matched("pictures", len(picture_of), len(asins), match.note())
    absent = {
        item: failures.get(asin, "no picture" if asin else "no ASIN")
        for item, asin in enumerate(asins)
        if item not in picture_of
    }
    return absent, picture_of


# ---------------------------------------------------------------- keys, output and lock


def job_key(settings: TextSettings | ImageSettings, device: str) -> dict:
    """Return what features depend on besides the items' inputs; a model counts by the sizes and times of its files."""
    model = None
    if settings.encoder in PRETRAINED:
        source = Path(settings.model_name).resolve()
        paths = [source] if source.is_file() else sorted(source.iterdir())
        model = [str(source), digest([file_signature(path) for path in paths])]
    return {"encoder": settings.encoder, "model": model, "device": device, "batch_size": settings.batch_size}


def file_signature(path: Path) -> list:
    """Return name, bytes and modification time of a file, which change with its content."""
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def output_path(settings: TextSettings | ImageSettings, *needed: str) -> tuple[Path, int]:
    """Return the path of the features and the number of items.

    Raises:
        FileNotFoundError: the interaction file or another needed one is missing.
        ValueError: the features exist and --overwrite is not given.
    """
    interactions = f"{settings.dataset}.txt"
    folder = require_files(settings.data_dir, settings.dataset, [interactions, *needed])
    suffix = ".npz" if settings.encoder in SPARSE_ENCODERS else ".npy"
    path = folder / f"{settings.name}_feat{suffix}"
    refuse_overwrite(path, settings.overwrite)
    return path, Interactions(folder / interactions, 0).n_items


def batches_per_shard(settings: TextSettings | ImageSettings) -> int:
    """Return the size of a shard in batches."""
    return -(-settings.shard_size // settings.batch_size)


# ---------------------------------------------------------------- command line


def run(argv: list[str]) -> int:
    """Run the program and return its exit status.

    Raises:
        UninformativeModalityError: the one error after which a program with other modalities can continue.
    """
    settings, file = parse_args(argv)
    try:
        match settings:
            case TextSettings():
                encode_text(settings)
            case ImageSettings():
                encode_image(settings)
            case _:
                import_features(file, settings)
    except UninformativeModalityError:
        raise
    except (ValueError, OSError) as error:
        return report_user_error(error)
    except KeyboardInterrupt:
        print("stopped; re-run the same command to resume", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UninformativeModalityError as error:
        return report_user_error(error)


if __name__ == "__main__":
    sys.exit(main())
