"""The command line of train_HeLLM.py: the settings of a run, or of a sweep of several runs."""

import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, fields

from config_HeLLM import SWEEP, Settings, settings_parser
from utils.cli.validation import SEED_RANGE

ABLATION = "ablation"  # the word of --sweep that asks for the paper's ablations instead of a grid
FIELD_TYPES = {field.name: field.type for field in fields(Settings)}
# Settings that all runs share: paths, what makes results comparable, and how the program runs
FIXED_FIELDS = {"target", "dataset", "data_dir", "output_dir", "logging_dir", "model_parallel"}
FIXED_FIELDS |= {"choose_by", "deterministic", "resume", "overwrite", "plan"}


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    argv: list[str]
    settings: Settings  # of the one run, or shared by all runs of a sweep
    sweep: dict[str, list] | str | None  # values by setting, as text or as in SWEEP; ABLATION; None without --sweep
    seeds: tuple[int, ...]  # one run per seed; empty: the one seed of the settings
    committee: bool  # sum the runs of all seeds at the end
    shard: tuple[int, int]  # number (from 1) of this machine and count of those that divide a sweep

    @property
    def is_sweep(self) -> bool:
        """Return whether there are several runs."""
        return bool(self.sweep or self.seeds)


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
    group.add_argument(
        "--seeds",
        type=_parse_seeds,
        metavar="A,B,...",
        help="train one run per seed, TARGET-SEED, in place of --seed; the table has mean ± standard deviation; with "
        "--sweep of every combination",
    )
    group.add_argument(
        "--committee",
        action="store_true",
        help="sum the scores of the runs of all --seeds and test the sum, as TARGET-committee",
    )
    settings, options = parser.parse(argv)
    try:
        sweep = _parse_sweep(options.sweep)
    except ValueError as error:
        parser.error(str(error))
    command = Command(
        argv, settings, sweep, options.seeds or (), options.committee, shard=options.sweep_shard or (1, 1)
    )
    if problem := _combination_problem(command, options.sweep_shard):
        parser.error(problem)
    return command


def _combination_problem(command: Command, shard: tuple[int, int] | None) -> str:
    """Return why the flags of several runs do not go together, "" if they do."""
    if shard and not command.is_sweep:
        return "--sweep_shard without --sweep or --seeds: there is nothing to divide"
    if command.seeds and isinstance(command.sweep, dict) and "seed" in command.sweep:
        return "--sweep seed: --seeds gives the seeds; leave one of them out"
    if command.settings.overwrite and command.is_sweep:
        return "--overwrite with --sweep or --seeds: they skip finished runs and resume others; use another --target"
    if command.committee and not command.seeds:
        return "--committee without --seeds: there is nothing to sum"
    if command.committee and (command.sweep or shard):
        return "--committee with --sweep or --sweep_shard: python -m utils.ensemble sums the runs that are chosen"
    return ""


def _parse_seeds(text: str) -> tuple[int, ...]:
    words = text.split(",")
    seeds = tuple(int(word) for word in words if word.isdecimal() and int(word) <= SEED_RANGE[1])
    if len(words) < 2 or len(set(seeds)) < len(words):
        raise ArgumentTypeError(f"{text}: two or more different seeds, such as 2024,2025,2026")
    return seeds


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
