"""Raw Amazon reviews and metadata to the interaction file, id maps, item texts and splits.

    python -m preprocess.amazon --dataset Beauty

Reads `DATA_DIR/raw/reviews_{dataset}_5.json.gz` and `meta_{dataset}.json.gz` (releases of 2014 and 2018, or the
`.jsonl.gz` files of 2023; gzipped or not); writes into `DATA_DIR/sequential/{dataset}/`: `{dataset}.txt`,
`u_id_mapping.csv`, `i_id_mapping.csv`, `item_text.tsv`, `item_image.tsv` (addresses of pictures), `5-core/train.json`,
`val.json` and `test.json`, `statistics.json` and `skipped.tsv`.
"""

import contextlib
import json
import shutil
import signal
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from preprocess.raw.amazon_releases import Item, read_items, read_reviews
from preprocess.raw.item_files import (
    ASIN,
    IMAGE_URL_FILE,
    IMAGE_URL_HEADER,
    ITEM_ID_FILE,
    ITEM_ID_HEADER,
    ITEM_TEXT_FILE,
    USER_ID_FILE,
    USER_ID_HEADER,
)
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_choices_and_names, check_numbers
from utils.data.layout import dataset_folder
from utils.io.disk_full import explain_disk_full
from utils.runtime.lock import run_lock

REVIEW_NAMES = ("reviews_{}_5.json", "reviews_{}.json", "{}_5.json", "{}.json", "{}.jsonl")
META_NAMES = ("meta_{}.json", "meta_{}.jsonl")


@dataclass(frozen=True)
class RawSettings:
    """Settings of the raw preprocessing."""

    dataset: str = "Beauty"  # name of the category, in the files' names and for the folder that is written
    data_dir: str = "datasets"  # holds raw/ and sequential/
    reviews: str = ""  # review file, where it is not DATA_DIR/raw/reviews_DATASET_5.json.gz
    meta: str = ""  # metadata file, where it is not DATA_DIR/raw/meta_DATASET.json.gz
    k_core: int = 5  # users and items keep at least so many interactions
    overwrite: bool = False  # replace files that are there already


def validate_settings(settings: RawSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    return check_numbers(settings, at_least_1=("k_core",)) + check_choices_and_names(settings, {}, ("dataset",))


def find_raw(settings: RawSettings, given: str, names: tuple[str, ...]) -> Path:
    """The file that is given, or the first of the releases' names in DATA_DIR/raw.

    Raises:
        FileNotFoundError: naming what was looked for.
    """
    folder = Path(settings.data_dir) / "raw"
    plain = [folder / name.format(settings.dataset) for name in names]
    looked = [Path(given)] if given else [path for p in plain for path in (p.with_name(p.name + ".gz"), p)]
    for path in looked:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{looked[0]} missing (so are its other names); datasets/README.md says where it comes from"
    )


@dataclass
class Reviews:
    """Interactions in columns; users and items are numbered in the order of `user_ids` and `item_ids`."""

    user: np.ndarray  # int64 (N,)
    item: np.ndarray  # int64 (N,)
    time: np.ndarray  # int64 (N,), milliseconds
    user_ids: list[str]
    item_ids: list[str]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> "Reviews":
        """Some of the interactions, users and items numbered anew by sorted id."""
        user, user_ids = _renumbered(self.user[rows], self.user_ids)
        item, item_ids = _renumbered(self.item[rows], self.item_ids)
        return Reviews(user, item, self.time[rows], user_ids, item_ids)


def _renumbered(code: np.ndarray, ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Codes and ids once more, with only the ids that occur, sorted."""
    left = sorted(np.unique(code).tolist(), key=ids.__getitem__)
    number = np.full(len(ids), -1)
    number[left] = np.arange(len(left))
    return number[code], [ids[c] for c in left]


def load_reviews(path: Path) -> Reviews:
    """Every review of a file, in its order.

    Raises:
        ValueError: naming path, line and value.
    """
    users, items = {}, {}
    columns = array("q"), array("q"), array("q")
    for number, user, item, time in tqdm(read_reviews(path), desc=path.name, unit="lines", disable=None, leave=False):
        for ids, name in ((users, user), (items, item)):
            if name not in ids and not ASIN.fullmatch(name):
                raise ValueError(f"{path}: line {number}: {name!r:.60} is not an id; remove the line or correct it")
        columns[0].append(users.setdefault(user, len(users)))
        columns[1].append(items.setdefault(item, len(items)))
        columns[2].append(time)
    if not users:
        raise ValueError(f"{path}: no review in it; fetch it again")
    return Reviews(*(np.array(column) for column in columns), list(users), list(items))


def drop_duplicates(reviews: Reviews) -> np.ndarray:
    """Rows of the first of every (user, item, time), in order: int64 (n,)."""
    order = np.lexsort((reviews.time, reviews.item, reviews.user))  # stable
    columns = [column[order] for column in (reviews.user, reviews.item, reviews.time)]
    new = np.ones(len(order), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.sort(order[new])


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Rows left when users and items with less than k interactions are taken out until there are none: int64 (n,)."""
    rows = np.arange(len(user))
    while True:
        many = [np.bincount(column[rows])[column[rows]] >= k for column in (user, item)]
        kept = rows[many[0] & many[1]]
        if len(kept) == len(rows):
            return rows
        rows = kept


def load_items(path: Path, item_ids: list[str]) -> tuple[list[Item | None], list[tuple]]:
    """Description of every item (None without one), and what was skipped: (reason, line, ASIN).

    Raises:
        ValueError: naming path, line and value.
    """
    number_of = {asin: number for number, asin in enumerate(item_ids)}
    items, skipped = [None] * len(item_ids), []
    for line, asin, item in tqdm(read_items(path, number_of), desc=path.name, unit="items", disable=None, leave=False):
        if items[number_of[asin]] is None:
            items[number_of[asin]] = item
        else:
            skipped.append(("a further line for the same item", line, asin))
    if not any(items):
        raise ValueError(f"{path}: none of the {len(items)} items is in it; take the metadata of the same category")
    skipped += [("no metadata", "", asin) for asin, item in zip(item_ids, items, strict=True) if item is None]
    return items, skipped


def split(sequence: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Leave-one-out: all but the last two items, the last but one, the last."""
    return sequence[:-2], sequence[-2:-1], sequence[-1:]


def as_json(content: object) -> str:
    return json.dumps(content, indent=1) + "\n"


def as_table(header: str, rows: Iterable[tuple], separator: str = "\t") -> str:
    """Lines of fields that hold neither separator nor line break (ids are checked, texts are in one line)."""
    return "\n".join([header, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def render_dataset_files(
    settings: RawSettings, reviews: Reviews, items: list[Item | None], skipped: list, counts: dict
) -> dict:
    """Name in the dataset's folder to content, the interaction file last."""
    order = np.lexsort((reviews.item, reviews.time, reviews.user))  # a tie in time goes by ASIN
    length = np.bincount(reviews.user)
    sequences = [s.tolist() for s in np.split(reviews.item[order], np.cumsum(length)[:-1])]
    parts = [dict(enumerate(part)) for part in zip(*map(split, sequences), strict=True)]
    known = [
        (number, asin, item) for number, (asin, item) in enumerate(zip(reviews.item_ids, items, strict=True)) if item
    ]
    n_users, n_items = len(reviews.user_ids), len(reviews.item_ids)
    statistics = {
        "dataset": settings.dataset,
        "k_core": settings.k_core,
        **counts,
        "users": n_users,
        "items": n_items,
        "interactions": len(reviews),
        "density": len(reviews) / (n_users * n_items),
        "items_a_user": {"mean": float(length.mean()), "median": float(np.median(length)), "most": int(length.max())},
        "users_an_item": {"mean": len(reviews) / n_items, "most": int(np.bincount(reviews.item).max())},
        "skipped_metadata_lines": len(skipped) - (n_items - len(known)),
        "items_without_metadata": n_items - len(known),
    }
    return {
        USER_ID_FILE: as_table(USER_ID_HEADER, enumerate(reviews.user_ids), ","),
        ITEM_ID_FILE: as_table(ITEM_ID_HEADER, enumerate(reviews.item_ids), ","),
        ITEM_TEXT_FILE: as_table(
            "item_id\tasin\ttitle\tbrand\tcategories\tdescription",
            [(number, asin, i.title, i.brand, i.categories, i.description) for number, asin, i in known],
        ),
        IMAGE_URL_FILE: as_table(IMAGE_URL_HEADER, [(number, asin, i.image) for number, asin, i in known if i.image]),
        **{f"5-core/{name}.json": as_json(part) for name, part in zip(("train", "val", "test"), parts, strict=True)},
        "statistics.json": as_json(statistics),
        "skipped.tsv": as_table("reason\tline\tasin", skipped),
        f"{settings.dataset}.txt": "".join(" ".join(map(str, [u, *s])) + "\n" for u, s in enumerate(sequences)),
    }


def refuse_overwrite(data_dir: str, dataset: str, overwrite: bool) -> Path:
    """Where the interaction file goes, once it is sure that it may.

    Raises:
        ValueError: there is one.
    """
    done = dataset_folder(data_dir, dataset) / f"{dataset}.txt"
    if done.exists() and not overwrite:
        raise ValueError(f"{done}: there already; --overwrite replaces it, another --data_dir keeps it")
    return done


def replace_dataset(settings: RawSettings, contents: dict[str, str | Path], removed: Iterable[Path] = ()) -> None:
    """Write `outputs` into the dataset's folder, of a path what its file holds, and take the `removed` files away.

    Files of before stay until all new ones are written. The interaction file is the last that takes its place:
    without it the folder is not complete.

    Raises:
        ValueError: another run writes there, or has meanwhile.
        DiskFullError: the disk is full.
    """
    folder = dataset_folder(settings.data_dir, settings.dataset)
    with run_lock(folder, flag="--data_dir"), contextlib.ExitStack() as leaving:
        done = refuse_overwrite(settings.data_dir, settings.dataset, settings.overwrite)
        new = done.with_suffix(".parts")
        leaving.callback(shutil.rmtree, new, ignore_errors=True)
        for name, content in contents.items():
            place, written = folder / name, new / name
            for path in (place, written):
                path.parent.mkdir(parents=True, exist_ok=True)
            with explain_disk_full(place, written):
                if isinstance(content, Path):
                    shutil.copyfile(content, written)
                else:
                    written.write_text(content, encoding="utf-8")
        for number in (signal.SIGINT, signal.SIGTERM):  # from here on it would end between two datasets
            leaving.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        for path in (done, *removed):
            path.unlink(missing_ok=True)
        for name in contents:
            (new / name).replace(folder / name)


def deduplicate_and_k_core(everything: Reviews, k: int, source: Path) -> tuple[Reviews, dict]:
    """Interactions without repeats, of users and items with k of them, and counts of what there was.

    Raises:
        ValueError: none is left.
    """
    distinct = everything.take(drop_duplicates(everything))
    left = distinct.take(k_core(distinct.user, distinct.item, k))
    if not len(left):
        raise ValueError(f"{source}: no user and item with {k} interactions each; try a lower --k_core")
    return left, {"reviews": len(everything), "repeated": len(everything) - len(distinct)}


def preprocess(settings: RawSettings) -> Path:
    """Read both files, write everything; returns the dataset's folder.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """
    done = refuse_overwrite(settings.data_dir, settings.dataset, settings.overwrite)
    sources = [
        find_raw(settings, given, names)
        for given, names in ((settings.reviews, REVIEW_NAMES), (settings.meta, META_NAMES))
    ]
    everything = load_reviews(sources[0])
    reviews, counts = deduplicate_and_k_core(everything, settings.k_core, sources[0])
    items, skipped = load_items(sources[1], reviews.item_ids)
    replace_dataset(settings, render_dataset_files(settings, reviews, items, skipped, counts))
    print(
        f"{done}: {len(reviews.user_ids):,} users, {len(reviews.item_ids):,} items, {len(reviews):,} interactions of "
        f"{len(everything):,} reviews; {len(skipped):,} entries in skipped.tsv"
    )
    return done.parent


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    program = "python -m preprocess.amazon"
    settings = parse_settings(
        RawSettings, argv, program, "Raw Amazon files to what the pipeline reads.", validate_settings
    )
    return run_program(preprocess, settings)


if __name__ == "__main__":
    sys.exit(main())
