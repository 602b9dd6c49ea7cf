"""The runs of a sweep: every combination of some values, and what each of them is called."""

import itertools
from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np

from config_HeLLM import Settings, parse_args
from utils.cli.flags import format_flag

ABLATION = "ablation"  # the sweep that is no grid
FIELD_TYPES = {field.name: field.type for field in fields(Settings)}
# The same for all runs: where things lie, what is compared with each other, how the program goes on
FIXED_FIELDS = {"target", "dataset", "data_dir", "output_dir", "logging_dir", "model_parallel"}
FIXED_FIELDS |= {"deterministic", "resume", "plan"}


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, or why there is none."""

    title: str
    settings: Settings | None
    why: str = ""  # there is none
    remedy: str = ""  # how there would be one


def parse_grid(words: list[str]) -> dict[str, list[str]]:
    """Setting to its values as text, from the words of --sweep.

    Raises:
        ValueError: a word that is not NAME=VALUE,VALUE …, or a name twice.
    """
    grid = {}
    for word in words:
        name, _, values = word.partition("=")
        if not name or not all(values.split(",")):
            raise ValueError(f"--sweep {word}: NAME=VALUE,VALUE … or, alone, {ABLATION}")
        if name in grid:
            raise ValueError(f"--sweep {name}: given twice")
        grid[name] = values.split(",")
    return grid


def grid_rows(rest: list[str], grid: dict[str, list]) -> list[SweepRun]:
    """A run for every combination of values, each parsed and checked as on a command line of its own.

    Args:
        rest: the command line without the sweep; grid: setting to its values, as they are or as text.

    Raises:
        ValueError: a setting that can't be swept, or the same run twice.
    """
    if not isinstance(grid, dict):
        raise ValueError(f"SWEEP in config_HeLLM.py is {grid!r:.60}, settings with lists of values are expected")
    for name, values in grid.items():
        if name not in FIELD_TYPES:
            raise ValueError(f"--sweep {name}: no such setting; train_HeLLM.py --help lists them")
        if name in FIXED_FIELDS:
            raise ValueError(f"--sweep {name}: has to be the same for all runs")
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"SWEEP in config_HeLLM.py: {name} is {values!r}, a list of values is expected")
    rows = []
    for values in itertools.product(*grid.values()):
        settings = parse_args([*rest, *map(_flag, grid, values)])
        target = "-".join([settings.target, *(run_suffix(name, getattr(settings, name)) for name in grid)])
        rows.append(SweepRun(target, replace(settings, target=target, resume=True)))
    twice = [title for title, n in Counter(row.title for row in rows).items() if n > 1]
    if twice:
        raise ValueError(f"--sweep: the same run twice: {', '.join(twice)}")
    return rows


def _flag(name: str, value: object) -> str:
    if FIELD_TYPES[name] is bool:
        words = {"true": True, "false": False}
        if str(value).lower() not in words:
            raise ValueError(f"--sweep {name}={value}: true or false")
        value = words[str(value).lower()]
    elif isinstance(value, (list, tuple)) and FIELD_TYPES[name] in (int, float, str):
        raise ValueError(f"SWEEP in config_HeLLM.py: {name} is {value!r:.60}, one value is expected")
    return format_flag(name, value)


def run_suffix(name: str, value: object) -> str:
    """A setting and its value in a run's name: lr1e-4, lora_r8, no-w_lora, lora_targetsw1+wq."""
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    if isinstance(value, tuple):
        value = "+".join(value)
    if isinstance(value, float):
        plain = np.format_float_positional(value, trim="-")
        value = min(plain, np.format_float_scientific(value, trim="-", exp_digits=1), key=len)
    return name + "".join(c if c.isalnum() or c in "+-._" else "_" for c in str(value))
