"""Runs that differ in their seed alone, and their mean."""

import json
import re
from dataclasses import replace

import numpy as np

from config_HeLLM import IGNORED_ON_RESUME, Settings
from utils.report.page import MetricValue
from utils.report.runs import Run

FREE_SETTINGS = IGNORED_ON_RESUME | {"seed", "target"}  # in which the runs of one group may differ


def with_seed_means(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return runs in their order, those that differ in their seed alone together behind a row of their mean.

    Returns:
        The runs and the means, and the kind of each as `page.Table` has it.
    """
    groups = {}
    for run in runs:
        seed = seed_of(run)
        group = groups.setdefault(_group_key(run), {})
        # Another run of the same seed, and one that is not finished, has no group
        alone = seed is None or seed in group or run.final is None
        (groups.setdefault(run.path, {}) if alone else group)[seed] = run
    found, kinds = [], []
    for group in groups.values():
        if len(group) > 1:
            found.append(seed_mean(group))
            kinds.append("mean")
        found += group.values()
        kinds += ["seed" if len(group) > 1 else ""] * len(group)
    return found, kinds


def seed_of(run: Run) -> int | None:
    """Return the seed of a run; None where it has none. The log of a fine-tuning leaves out the default."""
    return run.settings.get("seed", Settings.seed if run.fine_tuning else None)


def seed_mean(group: dict[int, Run]) -> Run:
    """Return the mean of runs as a run without files, named and described like them.

    Args:
        group: at least two finished runs by their seeds.
    """
    runs = list(group.values())
    tests = {}
    for test in runs[0].tests:
        metrics = {}
        for name in runs[0].tests[test]:
            values = [run.tests[test][name].value for run in runs if name in run.tests.get(test, {})]
            if len(values) == len(runs):
                metrics[name] = MetricValue(float(np.mean(values)), deviation=float(np.std(values, ddof=1)))
        tests[test] = metrics
    return replace(
        runs[0],
        name=f"{_common_name(group)}, mean of {len(group)} seeds",
        epochs=[],
        final=None,
        settings={name: value for name, value in runs[0].settings.items() if name != "seed"},
        tests=tests,
        ranks={},
        seeds=tuple(group),
    )


def _group_key(run: Run) -> str:
    """Return what the runs of a group have in common: folder, all settings but the free ones, and data files."""
    settings = {name: value for name, value in run.settings.items() if name not in FREE_SETTINGS}
    files = run.final.files if run.final else None
    return json.dumps([str(run.path.parent), run.fine_tuning, settings, files], sort_keys=True)


def _common_name(group: dict[int, Run]) -> str:
    """Return the runs' name without their seeds; if they are named in another way, that of the first."""
    names = {re.sub(rf"[-_]?(seed)?[-_]?{seed}(?![0-9])", "", run.name) for seed, run in group.items()}
    return names.pop() if len(names) == 1 else next(iter(group.values())).name
