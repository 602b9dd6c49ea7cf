"""Measure how the cost of pre-training MMHCL grows with the data: `python -m utils.benchmark pretrain`."""

import math
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from preprocess.pretrain_graph import GraphSettings, GraphTraining
from preprocess.pretrain_graph import parse_args as parse_graph_args
from utils.data.interactions import Interactions
from utils.data.layout import dataset_folder, require_files
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import rss_bytes

DATASETS = ("Beauty", "Sports_and_Outdoors")
COPIES = 10  # of Beauty in the synthetic dataset
WARM_UP_STEPS = 2
TIMED_STEPS = 8
FEATURE_WIDTH = 256


@dataclass
class PretrainMeasurement:
    """Sizes and costs of one dataset, measured in a separate process."""

    batch_size: int
    users: int
    items: int
    interactions: int  # in training
    read_seconds: float  # reading the data and building both hypergraphs
    step_seconds: float
    epoch_seconds: float
    peak: int  # resident bytes of the whole process


def pretrain(argv: list[str]) -> None:
    """Print seconds per step and per epoch, and peak memory, for Beauty, Sports and ten times Beauty.

    Every dataset has random features of one modality. Every measurement has a separate process.
    """
    settings = parse_graph_args(argv)
    measured = {}
    with tempfile.TemporaryDirectory() as temporary:
        paths = [require_files(settings.data_dir, name, [f"{name}.txt"]) / f"{name}.txt" for name in DATASETS]
        sources = [(name, path, 1) for name, path in zip(DATASETS, paths, strict=True)]
        sources.append((f"Beauty x {COPIES}", paths[0], COPIES))
        for title, path, copies in sources:
            dataset = title.replace(" ", "")
            _write_dataset(Path(temporary), dataset, path, copies)
            batch_size = settings.batch_size * copies
            run_settings = replace(settings, dataset=dataset, data_dir=temporary, batch_size=batch_size)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured[title] = pool.apply(_measure, (run_settings,))

    print(f"{torch.get_num_threads()} threads, {settings.contrastive_anchors or 'all'} anchors")
    print("| data | users | items | training interactions | reading, s | s per step | s per epoch | peak GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for title, m in measured.items():
        print(
            f"| {title}, batch {m.batch_size:,} | {m.users:,} | {m.items:,} | {m.interactions:,} | "
            f"{m.read_seconds:.1f} | {m.step_seconds:.3f} | {m.epoch_seconds:.1f} | {m.peak / 1e9:.2f} |"
        )
    small, *_, large = measured.values()
    log_growth = math.log(large.interactions / small.interactions)
    for cost, ratio in (
        ("a step", large.step_seconds / small.step_seconds),
        ("an epoch", large.epoch_seconds / small.epoch_seconds),
        ("peak memory", large.peak / small.peak),
    ):
        print(f"{cost} grows with interactions to the power of {math.log(ratio) / log_growth:.2f}")


def _write_dataset(data_dir: Path, name: str, source: Path, copies: int) -> None:
    """Write the sequences of `source` several times, and random features.

    The result has `copies` variants of each item, one of which is sampled for each interaction.
    """
    rng = np.random.default_rng(0)
    data = Interactions(source, 0)
    folder = dataset_folder(data_dir, name)
    folder.mkdir(parents=True)
    with (folder / f"{name}.txt").open("w") as file:
        for user in range(data.n_users * copies):
            items = data.kept_items(user % data.n_users)
            items = items + data.n_items * rng.integers(0, copies, len(items))
            file.write(" ".join(map(str, [user, *items])) + "\n")
    n_items = Interactions(folder / f"{name}.txt", 0).n_items
    features = rng.normal(size=(n_items, FEATURE_WIDTH)).astype(np.float32)
    np.save(folder / "text_feat.npy", features)


def _measure(settings: GraphSettings) -> PretrainMeasurement:
    started = time.perf_counter()
    training = GraphTraining(settings, resolve_device(settings.device))
    read_seconds = time.perf_counter() - started
    loop = training.loop()
    batches = training.batches.epoch(0)
    for number in range(WARM_UP_STEPS + TIMED_STEPS):
        if number == WARM_UP_STEPS:
            started = time.perf_counter()
        loop.step((0, number), settings.lr)
        loop.read_losses()
    step_seconds = (time.perf_counter() - started) / TIMED_STEPS
    training.evaluate(training.data.validation())  # counts for the peak memory
    return PretrainMeasurement(
        batch_size=settings.batch_size,
        users=training.data.n_users,
        items=training.data.n_items,
        interactions=training.R.nnz,
        read_seconds=read_seconds,
        step_seconds=step_seconds,
        epoch_seconds=step_seconds * len(batches),
        peak=rss_bytes("VmHWM"),
    )
