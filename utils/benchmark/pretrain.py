"""How the cost of pre-training MMHCL grows with the data: the part `pretrain` of utils.benchmark."""

import math
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from preprocess.pretrain_graph import GraphSettings, GraphTraining
from preprocess.pretrain_graph import parse_args as parse_graph_args
from utils.data.interactions import Interactions
from utils.data.layout import dataset_folder, require_files
from utils.runtime.distributed import resolve_device

DATASETS = ("Beauty", "Sports_and_Outdoors")
COPIES = 10  # of Beauty in the synthetic set
WARM_UP, STEPS = 2, 8
FEATURE_WIDTH = 256


def pretrain(argv: list[str]) -> None:
    """Print seconds a step and an epoch, and peak memory, of Beauty, Sports and ten times Beauty.

    Every set has random features of one modality; every measurement is a process of its own.
    """
    settings = parse_graph_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        paths = [require_files(settings.data_dir, name, [f"{name}.txt"]) / f"{name}.txt" for name in DATASETS]
        sources = [*zip(DATASETS, paths, strict=True), (f"Beauty x {COPIES}", paths[0])]
        for name, path in sources:
            copies = 1 if name in DATASETS else COPIES
            _write(Path(place), name.replace(" ", ""), path, copies)
            chosen = replace(settings, dataset=name.replace(" ", ""), data_dir=place)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(_measure, (chosen, settings.batch_size * copies)))
    print(f"{torch.get_num_threads()} threads, {settings.contrastive_anchors or 'all'} anchors")
    print("| data | users | items | training interactions | reading, s | s a step | s an epoch | peak GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (name, _), row in zip(sources, rows, strict=True):
        print(
            f"| {name}, batch {row['batch_size']:,} | {row['users']:,} | {row['items']:,} | {row['interactions']:,} | "
            f"{row['neighbours']:.1f} | {row['step']:.3f} | {row['step'] * row['steps']:.1f} | {row['peak']:.2f} |"
        )
    small, large = rows[0], rows[-1]
    growth = math.log(large["interactions"] / small["interactions"])
    for what, ratio in (
        ("a step", large["step"] / small["step"]),
        ("an epoch", large["step"] * large["steps"] / (small["step"] * small["steps"])),
        ("peak memory", large["peak"] / small["peak"]),
    ):
        print(f"{what} grows with interactions to the power of {math.log(ratio) / growth:.2f}")


def _write(place: Path, name: str, source: Path, copies: int) -> None:
    """The sequences of `source`, `copies` times, each item in one of as many variants; random features."""
    rng, data = np.random.default_rng(0), Interactions(source, 0)
    folder = dataset_folder(place, name)
    folder.mkdir(parents=True)
    with (folder / f"{name}.txt").open("w") as file:
        for user in range(data.n_users * copies):
            begin, count = data.begin[user % data.n_users], data.count[user % data.n_users]
            items = data.items[begin : begin + count] + data.n_items * rng.integers(0, copies, count)
            file.write(" ".join(map(str, [user, *items])) + "\n")
    n_items = Interactions(folder / f"{name}.txt", 0).n_items
    features = rng.normal(size=(n_items, FEATURE_WIDTH)).astype(np.float32)
    np.save(folder / "text_feat.npy", features)


def _measure(settings: GraphSettings, batch_size: int) -> dict[str, float]:
    started = time.perf_counter()
    training = GraphTraining(replace(settings, batch_size=batch_size), resolve_device(settings.device))
    prepared = time.perf_counter()
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            begun = time.perf_counter()
        training.step(0, number)
    step = (time.perf_counter() - begun) / STEPS
    training.rank(training.data.validation())
    memory = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {
        "batch_size": batch_size,
        "users": training.data.n_users,
        "items": training.data.n_items,
        "interactions": training.R.nnz,
        "neighbours": prepared - started,
        "step": step,
        "steps": training.steps,
        "peak": int(memory) * 1024 / 1e9,
    }
