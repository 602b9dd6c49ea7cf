"""Measure the whole way from the interaction file to the tested `best`: `python -m utils.benchmark pipeline`."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from preprocess.modalities.encoders import INSTALL_HINT
from preprocess.raw.item_files import ITEM_TEXT_FILE
from preprocess.tables import GRAPH_FLAGS, MINILM_PACKAGE, text_commands
from utils.benchmark.measure import DataSettings, print_table, validate_data_settings
from utils.cli.flags import parse_settings
from utils.data.layout import dataset_folder, require_files
from utils.evaluation.metrics import format_headline_metrics
from utils.logs.records import read_metrics
from utils.logs.run_log import log_folder

ROOT = Path(__file__).parents[2]
TESTED = {"MMHCL": "pretrain", "SASRec": "pretrain", "best": "best"}  # stage -> target of its run


@dataclass
class StageCost:
    """Costs of one command; those of its processes together, but the memory of the largest."""

    wall_seconds: float
    processor_seconds: float  # user and system
    peak: int  # resident bytes; at least those of this program, which starts the command


def pipeline(argv: list[str]) -> None:
    """Run the commands that lead to the tested `best`, one after another; print what each costs, and the test metrics.

    They write to a temporary folder, so nothing of the user's is replaced.

    Raises:
        ValueError: a command failed.
    """
    program = "python -m utils.benchmark pipeline"
    settings = parse_settings(DataSettings, argv, program, "Measure the whole way.", validate_data_settings)
    inputs = [f"{settings.dataset}.txt", ITEM_TEXT_FILE]
    source = require_files(settings.data_dir, settings.dataset, inputs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = dataset_folder(temporary, settings.dataset)
        folder.mkdir(parents=True)
        for name in inputs:
            (folder / name).symlink_to((source / name).resolve())
        commands = stage_commands(settings.dataset, temporary)
        costs = {name: _run(name, command) for name, command in commands.items()}
        tests = _tests(settings.dataset, Path(temporary) / "log")

    total = StageCost(
        sum(cost.wall_seconds for cost in costs.values()),
        sum(cost.processor_seconds for cost in costs.values()),
        max(cost.peak for cost in costs.values()),
    )
    rows = [
        [name, f"{cost.wall_seconds:.1f}", f"{cost.processor_seconds:.1f}", f"{cost.peak / 1e9:.2f}"]
        for name, cost in [*costs.items(), ("all", total)]
    ]
    print_table([f"stage, {settings.dataset}", "wall s", "processor s, user and system", "peak GB"], rows)
    print("\n".join(tests))


def stage_commands(dataset: str, temporary: str) -> dict[str, list[str]]:
    """Return the command of every stage that can be run here, in order: those of preprocess.tables, and `best`."""
    data_flags = ["--dataset", dataset, "--data_dir", temporary]
    run_flags = [*data_flags, "--output_dir", f"{temporary}/output", "--logging_dir", f"{temporary}/log"]
    has_minilm = find_spec(MINILM_PACKAGE) is not None
    if not has_minilm:
        print(f"sentences left out: {MINILM_PACKAGE} is not installed; {INSTALL_HINT}")
    features = text_commands(dataset_folder(temporary, dataset), has_minilm)
    return {
        **{name: ["-m", "preprocess.features", *argv, *data_flags] for name, argv in features.items()},
        "MMHCL": ["-m", "preprocess.pretrain_graph", *run_flags, *GRAPH_FLAGS.split()],
        "SASRec": ["-m", "preprocess.pretrain_sasrec", *run_flags],
        "best": ["train_HeLLM.py", "--preset", "best", *run_flags],
    }


def _run(name: str, command: list[str]) -> StageCost:
    """Run one stage as the user would, and return its costs."""
    print(f"python {' '.join(command)}", flush=True)
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # it has come to the stage as well, which saves and ends
        process.wait()
        raise
    wall_seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{name}: ended with exit status {process.returncode}; its own message is above")
    return StageCost(wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _tests(dataset: str, logs: Path) -> list[str]:
    """Return a line per tested model and protocol."""
    lines = []
    for name, target in TESTED.items():
        folder = log_folder(logs, dataset, "SASRec" if name == "SASRec" else "MMHCL")
        _, final = read_metrics(folder / f"{target}_metrics.jsonl")
        kept = "items of training removed" if name == "MMHCL" else "seen items kept"
        lines.append(f"{name}, test, {kept}: {format_headline_metrics(final.test)}")
        if final.test_unseen:
            lines.append(f"{name}, test, history removed: {format_headline_metrics(final.test_unseen)}")
    return lines
