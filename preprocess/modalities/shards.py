"""Features of many items, saved shard by shard, so that a run that was killed goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from utils.io.torch_files import load_with_checksum, save_with_checksum


class UnusableInputError(Exception):
    """Why an item's input gives no features."""


@dataclass(frozen=True)
class EncodingJob:
    """What is encoded, and how.

    Args:
        n_items: rows of the matrix.
        batches: items that go through the encoder together, int64 (B,) each; the same however they are saved.
        stamp: an item to what its features depend on besides `about`, as JSON has it.
        read: an item to the encoder's input; raises Unusable.
        encode: inputs, at least one, to float32 (N, width).
        about: what all features depend on, as JSON has it.
    """

    n_items: int
    batches: list[np.ndarray]
    stamp: Callable[[int], Any]
    read: Callable[[int], Any]
    encode: Callable[[list], np.ndarray]
    about: dict


def shard_folder(path: Path) -> Path:
    """Where the shards of a matrix lie until it is complete: NAME_feat.npy has NAME_feat.parts."""
    return path.with_suffix(".parts")


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode_in_shards(path: Path, source: EncodingJob, batches_a_shard: int) -> tuple[np.ndarray, dict[int, str]]:
    """Encode everything that is not saved from an earlier run with the same inputs and settings.

    Args:
        path: of the matrix that this is for.

    Returns: float32 (n_items, width), zeros for items that are in no batch or unusable; reasons of the unusable ones.

    Raises:
        ValueError: features that are not finite, naming the row.
    """
    folder = shard_folder(path)
    folder.mkdir(exist_ok=True)
    firsts = range(0, len(source.batches), batches_a_shard)
    shards = [source.batches[first : first + batches_a_shard] for first in firsts]
    found, problems = [], {}
    for number, batches in enumerate(tqdm(shards, desc=path.name, unit="shards", disable=None, leave=False)):
        file, fingerprint = folder / f"{number:05}.pt", _fingerprint(source, batches)
        shard = _saved(file)
        if shard.get("fingerprint") != fingerprint:
            features, unusable = _encode(source, batches, path)
            shard = {"fingerprint": fingerprint, "features": torch.from_numpy(features), "unusable": unusable}
            save_with_checksum(shard, file)
        problems |= shard["unusable"]
        items = [item for item in np.concatenate(batches).tolist() if item not in shard["unusable"]]
        if items:
            found.append((items, shard["features"].numpy()))
    width = found[0][1].shape[1] if found else 0
    features = np.zeros((source.n_items, width), np.float32)
    for items, rows in found:
        features[items] = rows
    return features, problems


def _fingerprint(source: EncodingJob, batches: list[np.ndarray]) -> dict:
    items = [batch.tolist() for batch in batches]
    inputs = digest([[[item, source.stamp(item)] for item in batch] for batch in items])
    return {**source.about, "n_items": source.n_items, "inputs": inputs}


def _saved(file: Path) -> dict:
    """A shard of an earlier run; nothing where it is absent or damaged."""
    try:
        return load_with_checksum(file)
    except (FileNotFoundError, ValueError):
        return {}


def _encode(source: EncodingJob, batches: list[np.ndarray], path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Features of a shard's usable items, in order, and why the others are not usable."""
    rows, unusable = [np.zeros((0, 0), np.float32)], {}
    for batch in batches:
        items, inputs = [], []
        for item in batch.tolist():
            try:
                inputs.append(source.read(item))
                items.append(item)
            except UnusableInputError as reason:
                unusable[item] = str(reason)
        if inputs:
            features = source.encode(inputs)
            _check(path, features, items)
            rows.append(features)
    return np.concatenate(rows[1:] or rows), unusable


def _check(path: Path, features: np.ndarray, items: list[int]) -> None:
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise ValueError(f"{path}: features of item {items[int(bad.argmax())]} hold NaN or infinity; try --device cpu")


def remove_parts(path: Path) -> None:
    """Remove a matrix's shards, where there are any."""
    if shard_folder(path).is_dir():
        shutil.rmtree(shard_folder(path))


def remove_stale_shards(path: Path) -> None:
    """Remove a matrix's shards if all are older than it: who made it was killed before that."""
    saved_at = [shard.stat().st_mtime_ns for shard in shard_folder(path).glob("*")]
    if saved_at and max(saved_at) <= path.stat().st_mtime_ns:
        remove_parts(path)
