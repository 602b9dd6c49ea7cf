"""Measure what each hypergraph of MMHCL contributes: `python -m utils.benchmark ablation`."""

import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocess.pretrain_graph import GraphTraining
from preprocess.pretraining.graph_settings import GraphSettings
from preprocess.pretraining.graph_settings import parse_args as parse_graph_args
from preprocess.pretraining.settings import PRETRAIN_IGNORED_ON_RESUME
from utils.cli.restored import fingerprint
from utils.data.features import find_features
from utils.data.layout import dataset_folder, require_files
from utils.evaluation.metrics import HEADLINE_METRICS
from utils.io.atomic import atomic_write
from utils.logs.run_log import log_folder
from utils.runtime.distributed import resolve_device
from utils.runtime.seed import seed_everything

VARIANTS = {
    "both hypergraphs": {},
    "without users'": {"user_loss_ratio": 0.0},
    "without items'": {"item_loss_ratio": 0.0},
    "without both (LightGCN)": {"user_loss_ratio": 0.0, "item_loss_ratio": 0.0},
}
SEEDS = 3


def ablation(argv: list[str]) -> None:
    """Train every variant with SEEDS seeds; print and plot means and standard deviations of the test metrics.

    Writes `log/{dataset}/MMHCL/ablation.json` after every run. Runs that this file lists under the same settings are
    not repeated, and an interrupted run is resumed.

    Raises:
        StopTraining: a signal ended a run, whose state is saved.
    """
    settings = parse_graph_args(argv)
    path = log_folder(settings.logging_dir, settings.dataset, "MMHCL") / "ablation.json"
    recorded_settings = fingerprint(settings, PRETRAIN_IGNORED_ON_RESUME)
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    runs = earlier.get("runs", {}) if earlier.get("settings") == recorded_settings else {}
    for seed in range(settings.seed, settings.seed + SEEDS):
        for number, (variant, change) in enumerate(VARIANTS.items()):
            key = f"{variant}, seed {seed}"
            if key in runs:
                continue
            target = f"{settings.target}-ablation-{number}-{seed}"
            runs[key] = _test_metrics(replace(settings, seed=seed, target=target, resume=True, **change))
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps({"settings": recorded_settings, "runs": runs}, indent=1) + "\n")

    values = {}
    for variant in VARIANTS:
        runs_of_variant = [run for key, run in runs.items() if key.startswith(variant + ",")]
        # A file of an earlier version may lack a metric
        values[variant] = [[run.get(name, math.nan) for name in HEADLINE_METRICS] for run in runs_of_variant]
    print(_markdown(values, settings.dataset))
    _plot(values, path.with_suffix(".png"), settings.dataset)


def _test_metrics(settings: GraphSettings) -> dict[str, float]:
    """Train one variant in a temporary folder and return its test metrics; the saved state is removed."""
    source = require_files(settings.data_dir, settings.dataset, [f"{settings.dataset}.txt"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = dataset_folder(temporary, settings.dataset)
        folder.mkdir(parents=True)
        for file in (source / f"{settings.dataset}.txt", *find_features(source)):
            (folder / file.name).symlink_to(file.resolve())
        seed_everything(settings.seed)
        settings = replace(settings, data_dir=temporary, logging_dir=temporary)
        training = GraphTraining(settings, resolve_device(settings.device))
        with training.checkpoints.lock():
            training.train(training.loop(), training.checkpoints.restore())
        shutil.rmtree(training.checkpoints.folder)
        return training.evaluate(training.data.test())


def _markdown(values: dict[str, list[list[float]]], dataset: str) -> str:
    """Return a table with a row per variant; `values` has a row per run and a column per headline metric."""
    lines = ["| " + " | ".join([f"{dataset}, test", *HEADLINE_METRICS]) + " |"]
    lines.append("| --- " * (1 + len(HEADLINE_METRICS)) + "|")
    for variant, runs in values.items():
        means = np.mean(runs, 0)
        deviations = np.std(runs, 0, ddof=1)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(means, deviations, strict=True)]
        lines.append("| " + " | ".join([variant, *cells]) + " |")
    return "\n".join(lines)


def _plot(values: dict[str, list[list[float]]], path: Path, dataset: str) -> None:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    colors = [f"C{i}" for i in range(len(values))]
    for axes, column in zip(figure.subplots(1, 2), (2, 3), strict=True):  # Recall@20, NDCG@20
        points = [[run[column] for run in runs] for runs in values.values()]
        axes.barh(list(values), [np.mean(p) for p in points], color=colors, alpha=0.6)
        for row, p in enumerate(points):
            axes.plot(p, [row] * len(p), "k.", markersize=4)
        axes.set(title=f"{dataset}, test {HEADLINE_METRICS[column]}", xlim=(0, None))
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
