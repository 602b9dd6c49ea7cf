"""The command line of train_HeLLM.py: the settings of a run, or of a sweep of several runs."""

import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, fields

from config_HeLLM import SWEEP, Settings, settings_parser

ABLATION = "ablation"  # the word of --sweep that asks for the paper's ablations instead of a grid
FIELD_TYPES = {field.name: field.type for field in fields(Settings)}
# Settings that all runs share: paths, what makes results comparable, and how the program runs
FIXED_FIELDS = {"target", "dataset", "data_dir", "output_dir", "logging_dir", "model_parallel"}
FIXED_FIELDS |= {"choose_by", "deterministic", "resume", "plan"}


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    argv: list[str]
    settings: Settings  # of the one run, or shared by all runs of a sweep
    sweep: dict[str, list] | str | None  # values by setting, as text or as in SWEEP; ABLATION; None for one run
    shard: tuple[int, int]  # number (from 1) of this machine and count of those that divide a sweep


def parse_command(argv: list[str] | None = None) -> Command:
    """Parse a command line (None: the program's own); an invalid one ends the program with exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = settings_parser()
    group = parser.add_argument_group("several runs")
    group.add_argument(
        "--sweep",
        nargs="+",
        action="extend",
        metavar="NAME=A,B,...",
        help="train every combination of these values, e.g. lr=1e-4,3e-4 lora_r=8,16; or, given the one word "
        "ablation, the full model and the paper's ablations; repeat the same command to resume",
    )
    group.add_argument(
        "--sweep_shard",
        type=_parse_shard,
        metavar="I/N",
        help="divide a sweep between N machines: this one trains every N-th run, beginning with the I-th",
    )
    settings, options = parser.parse(argv)
    try:
        sweep = _parse_sweep(options.sweep)
    except ValueError as error:
        parser.error(str(error))
    if options.sweep_shard and not sweep:
        parser.error("--sweep_shard without --sweep: there is nothing to divide")
    return Command(argv, settings, sweep, options.sweep_shard or (1, 1))


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"{text}: expected I/N, from 1/N to N/N")
    return int(number), int(count)


def _parse_sweep(words: list[str] | None) -> dict[str, list] | str | None:
    """Return the sweep of the words behind --sweep, else that of SWEEP.

    Raises:
        ValueError: a word that is not NAME=VALUE,VALUE …, a setting twice or one that can't be swept, or a SWEEP
            that does not map settings to lists.
    """
    if words == [ABLATION]:
        return ABLATION
    grid = _parse_grid(words) if words else SWEEP
    if not isinstance(grid, dict):
        raise ValueError(f"SWEEP in config_HeLLM.py is {grid!r:.60}, expected a dictionary of settings to lists")
    for name, values in grid.items():
        if name not in FIELD_TYPES:
            raise ValueError(f"--sweep {name}: no such setting; train_HeLLM.py --help lists them")
        if name in FIXED_FIELDS:
            raise ValueError(f"--sweep {name}: must be the same for all runs")
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"SWEEP in config_HeLLM.py: {name} is {values!r:.60}, expected a list of values")
    return grid or None


def _parse_grid(words: list[str]) -> dict[str, list[str]]:
    grid = {}
    for word in words:
        name, _, values = word.partition("=")
        if not name or not all(values.split(",")):
            raise ValueError(f"--sweep {word}: expected NAME=VALUE,VALUE … or, alone, {ABLATION}")
        if name in grid:
            raise ValueError(f"--sweep {name}: given twice")
        grid[name] = values.split(",")
    return grid
