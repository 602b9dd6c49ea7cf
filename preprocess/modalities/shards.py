"""Encode many items shard by shard; finished shards are kept, so that a killed run can be resumed."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.cli.progress import track
from utils.io.torch_files import load_with_checksum, save_with_checksum


class UnusableInputError(Exception):
    """An item's input from which no features can be computed; the message is the reason."""


@dataclass(frozen=True)
class EncodingJob:
    """The definition of a feature matrix: its items, how they are read and encoded.

    Args:
        n_items: rows of the matrix.
        batches: items that are encoded together, int64 (B,) each; independent of the size of shards.
        input_key: returns what an item's features depend on besides `job_key`, serialisable as JSON.
        read: returns the encoder's input of an item, or raises UnusableInputError.
        encode: computes float32 (N, width) from at least one input.
        job_key: what all features depend on (encoder, model, device …), serialisable as JSON.
    """

    n_items: int
    batches: list[np.ndarray]
    input_key: Callable[[int], Any]
    read: Callable[[int], Any]
    encode: Callable[[list], np.ndarray]
    job_key: dict


def encode_in_shards(path: Path, job: EncodingJob, batches_per_shard: int) -> tuple[np.ndarray, dict[int, str]]:
    """Encode all items, reusing the shards of an earlier run with the same inputs and settings.

    Args:
        path: path of the matrix; its shards lie beside it.
        job: what to encode, and how.
        batches_per_shard: batches between two saves.

    Returns:
        Features, float32 (n_items, width), zeros for items that are in no batch or unusable; and the reason per
        unusable item.

    Raises:
        ValueError: features that are not finite, naming the item.
    """
    folder = shard_folder(path)
    folder.mkdir(exist_ok=True)
    starts = range(0, len(job.batches), batches_per_shard)
    encoded = []
    unusable = {}
    for number, start in enumerate(track(starts, path.name, "shards", len(starts))):
        batches = job.batches[start : start + batches_per_shard]
        shard = _load_or_encode(job, batches, folder / f"{number:05}.pt", path)
        unusable |= shard["unusable"]
        items = [item for item in np.concatenate(batches).tolist() if item not in shard["unusable"]]
        if items:
            encoded.append((items, shard["features"].numpy()))
    width = encoded[0][1].shape[1] if encoded else 0
    features = np.zeros((job.n_items, width), np.float32)
    for items, rows in encoded:
        features[items] = rows
    return features, unusable


def _load_or_encode(job: EncodingJob, batches: list[np.ndarray], file: Path, path: Path) -> dict:
    """Return the shard in a file, written again if it is absent, damaged, or of other inputs or settings."""
    items = [batch.tolist() for batch in batches]
    inputs = digest([[[item, job.input_key(item)] for item in batch] for batch in items])
    fingerprint = {**job.job_key, "n_items": job.n_items, "inputs": inputs}
    try:
        shard = load_with_checksum(file)
        if shard.get("fingerprint") == fingerprint:
            return shard
    except (FileNotFoundError, ValueError):
        pass  # absent or damaged
    features, unusable = _encode(job, batches, path)
    shard = {"fingerprint": fingerprint, "features": torch.from_numpy(features), "unusable": unusable}
    save_with_checksum(shard, file)
    return shard


def _encode(job: EncodingJob, batches: list[np.ndarray], path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Return the features of a shard's usable items, in order, and the reason per unusable item."""
    rows = []
    unusable = {}
    for batch in batches:
        items = []
        inputs = []
        for item in batch.tolist():
            try:
                inputs.append(job.read(item))
                items.append(item)
            except UnusableInputError as error:
                unusable[item] = str(error)
        if inputs:
            features = job.encode(inputs)
            _require_finite(path, features, items)
            rows.append(features)
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32), unusable


def _require_finite(path: Path, features: np.ndarray, items: list[int]) -> None:
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise ValueError(f"{path}: features of item {items[int(bad.argmax())]} hold NaN or infinity; try --device cpu")


def digest(content: Any) -> str:
    """Return the SHA-256 of content that is serialisable as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_folder(path: Path) -> Path:
    """Return the folder of a matrix's shards until it is complete: NAME_feat.parts of NAME_feat.npy."""
    return path.with_suffix(".parts")


def remove_shards(path: Path) -> None:
    """Remove a matrix's shards, if there are any; another run may be removing the same ones."""
    folder = shard_folder(path)
    with contextlib.suppress(FileNotFoundError):
        for shard in list(folder.glob("*")):
            shard.unlink(missing_ok=True)
        folder.rmdir()


def remove_stale_shards(path: Path) -> None:
    """Remove a matrix's shards if all are older than it: the run that completed it was killed before removing them."""
    with contextlib.suppress(FileNotFoundError):  # the run that has just completed it is removing them
        saved_at = [shard.stat().st_mtime_ns for shard in shard_folder(path).glob("*")]
        if saved_at and max(saved_at) <= path.stat().st_mtime_ns:
            remove_shards(path)
