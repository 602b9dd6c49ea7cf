"""Write a dataset's folder, replacing an earlier dataset only once the new one is complete."""

import contextlib
import json
import shutil
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.raw.interactions import RawInteractions
from preprocess.raw.item_files import (
    IMAGE_URL_FILE,
    IMAGE_URL_HEADER,
    ITEM_ID_FILE,
    ITEM_ID_HEADER,
    ITEM_TEXT_FILE,
    USER_ID_FILE,
    USER_ID_HEADER,
)
from preprocess.raw.item_metadata import Item
from utils.cli.validation import check_names, check_numbers
from utils.data.layout import dataset_folder, days_file
from utils.io.disk_full import explain_disk_full
from utils.runtime.lock import run_lock

SPLITS = ("train", "val", "test")  # 5-core/{split}.json


@dataclass(frozen=True)
class DatasetSettings:
    """Settings of every program that writes a dataset."""

    dataset: str = "Beauty"  # name of the dataset and of its folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # folder with raw/ and sequential/
    k_core: int = 5  # least number of interactions of a user or item; others are removed
    overwrite: bool = False  # replace an existing dataset of this name


def validate_settings(settings: DatasetSettings) -> list[str]:
    """Return one message per invalid setting."""
    return check_numbers(settings, at_least_1=("k_core",)) + check_names(settings, "dataset")


def refuse_overwrite(settings: DatasetSettings) -> Path:
    """Return the path of the interaction file that may be written.

    Raises:
        ValueError: it exists and --overwrite is not given.
    """
    path = dataset_folder(settings.data_dir, settings.dataset) / f"{settings.dataset}.txt"
    if path.exists() and not settings.overwrite:
        raise ValueError(f"{path}: already exists; --overwrite replaces it, another --data_dir keeps it")
    return path


def render_dataset_files(
    settings: DatasetSettings,
    interactions: RawInteractions,
    items: list[Item | None],
    skipped: list[tuple],
    counts: dict,
    day: np.ndarray | None,
) -> dict[str, str]:
    """Render every text file of a dataset.

    Args:
        settings: name and k-core, for `statistics.json`.
        interactions: what is left after filtering, users and items numbered by sorted id.
        items: metadata per item, None where it is unknown.
        skipped: entries of `skipped.tsv`: (reason, line, ASIN).
        counts: what filtering removed (`deduplicate_and_k_core`), and the skipped reviews, if there are any.
        day: int64 (N,), the day of each interaction (`utc_days`); None, which leaves the file of days out: unknown.

    Returns:
        Content per file name in the dataset's folder, the interaction file last.
    """
    # Each user's items are oldest first; equal times are ordered by item id
    order = np.lexsort((interactions.item, interactions.time, interactions.user))
    sequences = _split_by_user(interactions, interactions.item[order])
    known_items = [
        (index, asin, item)
        for index, (asin, item) in enumerate(zip(interactions.item_ids, items, strict=True))
        if item is not None
    ]
    texts = [(index, asin, i.title, i.brand, i.categories, i.description) for index, asin, i in known_items]
    image_urls = [(index, asin, item.image) for index, asin, item in known_items if item.image]
    n_unknown = len(items) - len(known_items)
    n_metadata_lines = len(skipped) - n_unknown - counts.get("skipped_review_lines", 0)
    metadata_counts = {"skipped_metadata_lines": n_metadata_lines, "items_without_metadata": n_unknown}
    statistics = {
        "dataset": settings.dataset,
        "k_core": settings.k_core,
        **counts,
        **_interaction_statistics(interactions),
        **metadata_counts,
    }
    leave_one_out = zip(SPLITS, (slice(None, -2), slice(-2, -1), slice(-1, None)), strict=True)
    splits = {name: _lists_to_json(sequence[part] for sequence in sequences) for name, part in leave_one_out}
    days = {} if day is None else {days_file(settings.dataset): _render_days(_split_by_user(interactions, day[order]))}
    return {
        USER_ID_FILE: _to_csv(USER_ID_HEADER, enumerate(interactions.user_ids), ","),
        ITEM_ID_FILE: _to_csv(ITEM_ID_HEADER, enumerate(interactions.item_ids), ","),
        ITEM_TEXT_FILE: _to_csv("item_id\tasin\ttitle\tbrand\tcategories\tdescription", texts),
        IMAGE_URL_FILE: _to_csv(IMAGE_URL_HEADER, image_urls),
        **{f"5-core/{name}.json": content for name, content in splits.items()},
        "statistics.json": _to_json(statistics),
        "skipped.tsv": _to_csv("reason\tline\tasin", skipped),
        **days,
        f"{settings.dataset}.txt": _to_rows(sequences),
    }


def _split_by_user(interactions: RawInteractions, values: np.ndarray) -> list[list[int]]:
    """Return the values of each user: int64 (N,), ordered by user, to one list per user."""
    ends = np.cumsum(np.bincount(interactions.user))
    return [sequence.tolist() for sequence in np.split(values, ends[:-1])]


def _to_rows(sequences: Iterable[list[int]]) -> str:
    """Render one line per user: its number, then its numbers."""
    return "".join(" ".join(map(str, [user, *sequence])) + "\n" for user, sequence in enumerate(sequences))


def _render_days(days_of_users: list[list[int]]) -> str:
    """Render the days since the first one of each user."""
    return _to_rows([day - days[0] for day in days] for days in days_of_users)


def _interaction_statistics(interactions: RawInteractions) -> dict:
    n_users = len(interactions.user_ids)
    n_items = len(interactions.item_ids)
    per_user = np.bincount(interactions.user)
    per_item = np.bincount(interactions.item)
    return {
        "users": n_users,
        "items": n_items,
        "interactions": len(interactions),
        "density": len(interactions) / (n_users * n_items),
        "items_a_user": {
            "mean": float(per_user.mean()),
            "median": float(np.median(per_user)),
            "most": int(per_user.max()),
        },
        "users_an_item": {"mean": len(interactions) / n_items, "most": int(per_item.max())},
    }


def _to_json(content: object) -> str:
    return json.dumps(content, indent=1) + "\n"


def _lists_to_json(lists: Iterable[list[int]]) -> str:
    """Return what `_to_json` returns of a mapping of index to list, without an object per bracket and comma."""
    numbered = enumerate(",\n  ".join(map(str, numbers)) for numbers in lists)
    entries = (f' "{index}": ' + (f"[\n  {numbers}\n ]" if numbers else "[]") for index, numbers in numbered)
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _to_csv(header: str, rows: Iterable[tuple], separator: str = "\t") -> str:
    """Render fields without quoting: ids are checked and texts are on one line, so none holds a separator."""
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def replace_dataset(settings: DatasetSettings, contents: dict[str, str | Path], obsolete: Iterable[Path] = ()) -> None:
    """Write a dataset's folder and remove obsolete files from it.

    Files are first written to a folder beside their destination, so that an earlier dataset stays until all of the new
    one is on disk. The interaction file is moved last: without it the folder counts as incomplete.

    Args:
        settings: where the dataset goes.
        contents: text, or file to copy, per file name in the dataset's folder, the interaction file last.
        obsolete: files of an earlier dataset that are to be removed.

    Raises:
        ValueError: another run writes the dataset, or has written it in the meantime.
        DiskFullError: the disk is full.
    """
    folder = dataset_folder(settings.data_dir, settings.dataset)
    with run_lock(folder, flag="--data_dir"), contextlib.ExitStack() as stack:
        interaction_file = refuse_overwrite(settings)
        staging = interaction_file.with_suffix(".parts")
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        for name, content in contents.items():
            _write(content, staging / name, folder / name)

        # From here on an interruption would leave a mixture of two datasets
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous_handler = signal.signal(signum, signal.SIG_IGN)
            stack.callback(signal.signal, signum, previous_handler)
        for path in (interaction_file, *obsolete):
            path.unlink(missing_ok=True)
        for name in contents:
            (staging / name).replace(folder / name)


def _write(content: str | Path, path: Path, destination: Path) -> None:
    """Write a text, or copy a file, on its way to a destination whose folder is made."""
    for parent in (destination.parent, path.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with explain_disk_full(destination):
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(content, encoding="utf-8")
