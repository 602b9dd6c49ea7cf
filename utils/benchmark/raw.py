"""Measure the conversion of raw Amazon files: `python -m utils.benchmark raw`."""

import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.amazon import RawSettings, preprocess
from utils.benchmark.measure import in_new_process
from utils.cli.flags import parse_settings
from utils.cli.validation import check_numbers
from utils.runtime.memory import rss_bytes

DATASET = "Synthetic"
RELEASES = {  # year -> suffix of its files, and how a line is written
    2014: ("json.gz", repr),
    2018: ("json.gz", json.dumps),
    2023: ("jsonl.gz", json.dumps),
}
# Large categories have about three reviews per user and twelve per item; the most active have many more
USERS_PER_REVIEW = 1 / 2
ITEMS_PER_REVIEW = 1 / 12
SKEW = 3  # power of a uniform number; a higher one favours few users and items
N_TEXTS = 10_000  # distinct texts of reviews and descriptions
N_WORDS = 5_000
WORDS_PER_TEXT = 80  # mean; about 600 bytes per review with all its fields
CHUNK = 100_000  # reviews whose users, items and times are drawn at once
FIRST_SECOND = 1_000_000_000  # since 1970
LAST_SECOND = 1_500_000_000


@dataclass(frozen=True)
class RawBenchmarkSettings:
    """Settings of the measurement, one comment per field, which --help shows."""

    lines: int = 1_000_000  # reviews of each release
    folder: str = ""  # where the files are made and removed; empty: the system's temporary folder


def raw(argv: list[str]) -> None:
    """Write synthetic files of each release, convert each in a new process, print its speed and peak memory."""
    description = "Measure the conversion of raw Amazon files."
    settings = parse_settings(RawBenchmarkSettings, argv, "python -m utils.benchmark raw", description, _validate)
    print("| release | reviews | items with metadata | MB, gzipped | reviews/s | processor s | peak resident, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for release in RELEASES:
        with tempfile.TemporaryDirectory(dir=settings.folder or None) as folder:
            n_items = write_release(Path(folder), release, settings.lines)
            size = sum(path.stat().st_size for path in (Path(folder) / "raw").iterdir())
            seconds, processor_seconds, peak = in_new_process(_convert, folder)
        cells = (
            f"{release} | {settings.lines:,} | {n_items:,} | {size / 1e6:,.1f}",
            f"{settings.lines / seconds:,.0f} | {processor_seconds:.1f} | {peak / 1e6:,.0f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _validate(settings: RawBenchmarkSettings) -> list[str]:
    return check_numbers(settings, at_least_1=("lines",))


def _convert(folder: str) -> tuple[float, float, int]:
    """Convert the files of a folder; return seconds, processor seconds and the process's peak resident bytes."""
    started = time.perf_counter()
    processor_started = time.process_time()
    preprocess(RawSettings(DATASET, folder))
    return time.perf_counter() - started, time.process_time() - processor_started, rss_bytes("VmHWM")


def write_release(folder: Path, release: int, n_reviews: int) -> int:
    """Write reviews and metadata of a synthetic category under `folder/raw`; return the number of items.

    Args:
        folder: the data folder.
        release: one of RELEASES.
        n_reviews: lines of the review file; the same number gives the same content.
    """
    suffix, to_line = RELEASES[release]
    raw_folder = folder / "raw"
    raw_folder.mkdir(parents=True)
    rng = np.random.default_rng([release, n_reviews])
    texts = _make_texts(rng)
    n_items = max(1, round(n_reviews * ITEMS_PER_REVIEW))
    review_name = {2014: "reviews_{}_5", 2018: "{}_5", 2023: "{}"}[release].format(DATASET)
    reviews = _make_reviews(rng, release, n_reviews, n_items, texts)
    _write_lines(raw_folder / f"{review_name}.{suffix}", reviews, to_line)
    _write_lines(raw_folder / f"meta_{DATASET}.{suffix}", _make_metadata(rng, release, n_items, texts), to_line)
    return n_items


def _write_lines(path: Path, entries: Iterator[dict], to_line: Callable[[dict], str]) -> None:
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.writelines(to_line(entry) + "\n" for entry in entries)


def _make_texts(rng: np.random.Generator) -> list[str]:
    """Return texts of words that are as unequal in frequency as those of a language, some with marks of all kinds."""
    letters = np.array(list("etaoinshrdlu"))
    words = np.array(["".join(rng.choice(letters, length)) for length in rng.integers(2, 10, N_WORDS)], dtype=object)
    words[::50] += "'s"
    words[25::500] = '"' + words[25::500] + '"'
    words[75::500] += "é"
    frequency = 1 / np.arange(10, N_WORDS + 10)
    frequency = rng.permutation(frequency / frequency.sum())
    lengths = 1 + rng.geometric(1 / WORDS_PER_TEXT, N_TEXTS)
    return [" ".join(rng.choice(words, length, p=frequency)) for length in lengths]


def _make_reviews(
    rng: np.random.Generator, release: int, n_reviews: int, n_items: int, texts: list[str]
) -> Iterator[dict]:
    n_users = max(1, round(n_reviews * USERS_PER_REVIEW))
    for start in range(0, n_reviews, CHUNK):
        size = min(CHUNK, n_reviews - start)
        users = (n_users * rng.random(size) ** SKEW).astype(int).tolist()
        items = (n_items * rng.random(size) ** SKEW).astype(int).tolist()
        seconds = rng.integers(FIRST_SECOND, LAST_SECOND, size).tolist()
        text_idx = rng.integers(0, N_TEXTS, size).tolist()
        for user, item, second, text in zip(users, items, seconds, text_idx, strict=True):
            yield _review(release, user, item, second, texts[text])


def _review(release: int, user: int, item: int, second: int, text: str) -> dict:
    """Return a review with all fields of its release."""
    summary = text[:30]
    if release == 2023:
        return {
            "rating": 5.0,
            "title": summary,
            "text": text,
            "images": [],
            "asin": _asin(item),
            "parent_asin": _asin(item),
            "user_id": f"AG{user:026}",
            "timestamp": second * 1000 + 123,
            "helpful_vote": 1,
            "verified_purchase": True,
        }
    entry = {"reviewerID": f"A{user:013}", "asin": _asin(item), "reviewerName": f"Name {user % 1000}"}
    if release == 2014:
        entry["helpful"] = [2, 3]
    else:
        entry |= {"verified": True, "style": {"Size:": " Large", "Color:": " Blue"}}
    return entry | {
        "reviewText": text,
        "overall": 5.0,
        "summary": summary,
        "unixReviewTime": second,
        "reviewTime": "01 1, 2010",
    }


def _make_metadata(rng: np.random.Generator, release: int, n_items: int, texts: list[str]) -> Iterator[dict]:
    for item in range(n_items):
        title, description = (texts[index] for index in rng.integers(0, N_TEXTS, 2).tolist())
        url = f"https://pictures.invalid/{_asin(item)}.jpg"
        related = [_asin((item + offset) % n_items) for offset in range(30)]
        categories = ["Synthetic", "Some", "Category"]
        entry = {"title": title[:80], "price": 9.99}
        if release == 2014:
            entry |= {"asin": _asin(item), "imUrl": url, "description": description, "brand": "Brand"}
            entry |= {"related": {"also_bought": related, "also_viewed": related}, "categories": [categories]}
        elif release == 2018:
            entry |= {"asin": _asin(item), "imageURLHighRes": [url], "description": [description], "brand": "Brand"}
            entry |= {"also_buy": related, "also_view": related, "category": categories}
        else:
            entry |= {"parent_asin": _asin(item), "description": [description], "features": [title], "store": "Brand"}
            entry |= {"images": [{"thumb": url, "large": url, "hi_res": url}] * 3, "categories": categories}
        yield entry


def _asin(item: int) -> str:
    return f"B{item:09}"
