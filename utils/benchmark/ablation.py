"""What each hypergraph of MMHCL is worth: the part `ablation` of utils.benchmark."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocess.pretrain_graph import GraphSettings, GraphTraining
from preprocess.pretrain_graph import parse_args as parse_graph_args
from preprocess.pretraining.hypergraph import find_features
from preprocess.pretraining.trainer import IGNORED_ON_RESUME
from utils.cli.restored import fingerprint
from utils.data.layout import dataset_folder, require_files
from utils.io.atomic import atomic_write
from utils.logs.records import HEADLINE_METRICS
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
    """Train every variant with SEEDS seeds; print and draw means and standard deviations of the test metrics.

    Writes `log/{dataset}/MMHCL/ablation.json` after every run, and goes on from what it holds under the same settings,
    in the middle of a run too.

    Raises:
        StopTraining: by a signal, the run's state saved.
    """
    settings = parse_graph_args(argv)
    path = log_folder(settings.logging_dir, settings.dataset, "MMHCL") / "ablation.json"
    shown = fingerprint(settings, IGNORED_ON_RESUME)
    done = json.loads(path.read_text()) if path.is_file() else {}
    runs = done.get("runs", {}) if done.get("settings") == shown else {}
    for seed in range(settings.seed, settings.seed + SEEDS):
        for name, change in VARIANTS.items():
            key = f"{name}, seed {seed}"
            if key not in runs:
                target = f"{settings.target}-ablation-{list(VARIANTS).index(name)}-{seed}"
                runs[key] = _test_metrics(replace(settings, seed=seed, target=target, resume=True, **change))
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps({"settings": shown, "runs": runs}, indent=1) + "\n")
    table = {
        name: [[run[m] for m in HEADLINE_METRICS] for key, run in runs.items() if key.startswith(name + ",")]
        for name in VARIANTS
    }
    print("| " + " | ".join([f"{settings.dataset}, test", *HEADLINE_METRICS]) + " |\n" + "| --- " * 5 + "|")
    for name, values in table.items():
        cells = (f"{m:.4f} ± {s:.4f}" for m, s in zip(np.mean(values, 0), np.std(values, 0, ddof=1), strict=True))
        print(f"| {name} | " + " | ".join(cells) + " |")
    _draw(table, path.with_suffix(".png"), settings.dataset)


def _test_metrics(settings: GraphSettings) -> dict[str, float]:
    """Of one run, whose tables and log are thrown away, and its state once it is done."""
    source = require_files(settings.data_dir, settings.dataset, [f"{settings.dataset}.txt"])
    with tempfile.TemporaryDirectory() as place:
        folder = dataset_folder(place, settings.dataset)
        folder.mkdir(parents=True)
        for file in (source / f"{settings.dataset}.txt", *find_features(source)):
            (folder / file.name).symlink_to(file.resolve())
        seed_everything(settings.seed)
        training = GraphTraining(replace(settings, data_dir=place, logging_dir=place), resolve_device(settings.device))
        with training.fit.begun():
            training.train()
        shutil.rmtree(training.fit.folder)
        return training.rank(training.data.test())


def _draw(table: dict[str, list], path: Path, dataset: str) -> None:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), (2, 3), strict=True):
        values = [[run[column] for run in runs] for runs in table.values()]
        axes.barh(list(table), [np.mean(v) for v in values], color=[f"C{i}" for i in range(len(table))], alpha=0.6)
        for row, points in enumerate(values):
            axes.plot(points, [row] * len(points), "k.", markersize=4)
        axes.set(title=f"{dataset}, test {HEADLINE_METRICS[column]}", xlim=(0, None))
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
