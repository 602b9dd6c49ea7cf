"""The runs of a grid: every combination of some settings' values, and their names."""

import itertools
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from config_HeLLM import Settings
from utils.cli.flags import format_flag
from utils.sweep.command import FIELD_TYPES, Command, parse_command


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, or the reason why it is left out."""

    title: str
    settings: Settings | None
    left_out: str = ""  # why there are no settings
    remedy: str = ""  # how the run could be made possible
    group: str = ""  # title of the runs that differ in their seed alone; empty: there are none


def grid_runs(command: Command) -> list[SweepRun]:
    """Return a run per combination of values; each is parsed as the given command line with the values added.

    Raises:
        ValueError: the same run twice, or a value that is not one.
    """
    grid = command.sweep or {}
    runs = []
    for values in itertools.product(*grid.values()):
        settings = parse_command([*command.argv, *map(_value_flag, grid, values)]).settings
        suffixes = [run_suffix(name, getattr(settings, name)) for name in grid]
        target = "-".join([settings.target, *suffixes])
        runs.append(SweepRun(target, replace(settings, target=target, resume=True)))
    repeated = [title for title, count in Counter(run.title for run in runs).items() if count > 1]
    if repeated:
        raise ValueError(f"--sweep: the same run twice: {', '.join(repeated)}")
    return runs


def seed_runs(runs: list[SweepRun], seeds: tuple[int, ...]) -> list[SweepRun]:
    """Return every run once per seed, under its target and the seed; the same runs without seeds."""
    if not seeds:
        return runs
    found = []
    for run in runs:
        if run.settings is None:
            found.append(run)
            continue
        for seed in seeds:
            target = f"{run.settings.target}-{seed}"
            title = target if run.title == run.settings.target else f"{run.title}, seed {seed}"
            found.append(SweepRun(title, replace(run.settings, seed=seed, target=target), group=run.title))
    return found


def _value_flag(name: str, value: object) -> str:
    """Return the flag for one value of a grid, which is text from --sweep or any value from SWEEP."""
    if FIELD_TYPES[name] is bool:
        switch = {"true": True, "false": False}.get(str(value).lower())
        if switch is None:
            raise ValueError(f"--sweep {name}={value}: expected true or false")
        return format_flag(name, switch)
    if isinstance(value, (list, tuple)) and name != "lora_targets":
        raise ValueError(f"SWEEP in config_HeLLM.py: {name} is {value!r:.60}, expected one value")
    return format_flag(name, value)


def run_suffix(name: str, value: object) -> str:
    """Return a setting and its value as part of a file name: lr1e-4, lora_r8, no-w_lora, lora_targetsw1+wq."""
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    if isinstance(value, tuple):
        value = "+".join(value)
    if isinstance(value, float):
        plain = np.format_float_positional(value, trim="-")
        scientific = np.format_float_scientific(value, trim="-", exp_digits=1)
        value = min(plain, scientific, key=len)
    return name + "".join(c if c.isalnum() or c in "+-._" else "_" for c in str(value))
