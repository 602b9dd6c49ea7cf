"""Measure how the costs grow with the data: `python -m utils.benchmark growth`."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from preprocess.pretraining.hypergraph import interaction_matrix
from preprocess.pretraining.neighbours import neighbour_incidence
from utils.benchmark.measure import DataSettings, in_own_process, print_table, time_parts, validate_data_settings
from utils.benchmark.trainings import open_best, open_mmhcl, open_sasrec
from utils.cli.flags import parse_settings
from utils.cli.validation import check_numbers
from utils.data.interactions import Interactions, Samples
from utils.data.layout import dataset_folder, require_files
from utils.evaluation.ranking import rank_by_product

TIMED_STEPS = 24
FEATURE_WIDTH = 64  # of dense features, and of the embeddings that are ranked by product
WORDS_PER_ITEM = 12
WORDS_PER_ROOT_ITEM = 40  # words of the vocabulary per square root of the number of items: 4,400 of Beauty
NEIGHBOURS = 7  # items per hyperedge, as in the README
SAMPLED_EDGES = 2048  # hyperedges that are searched first, to see how long all of them would take
RANKED_USERS = 10_000
USERS_PER_PART = 1_000  # ranked before the time is looked at


@dataclass(frozen=True)
class GrowthSettings(DataSettings):
    """The dataset that is measured on, and how many times as large it is made."""

    copies: tuple[str, ...] = ("1", "10", "50")  # sizes: so many times the users, and variants of each item
    limit: float = 30.0  # processor seconds of a cost after which it is extrapolated

    @property
    def sizes(self) -> list[int]:
        """Return the sizes as numbers."""
        return [int(size) for size in self.copies]


def validate_growth_settings(settings: GrowthSettings) -> list[str]:
    """Return all problems of the settings, one phrase per problem."""
    problems = validate_data_settings(settings) + check_numbers(settings, positive=("limit",))
    numbers = all(size.isdecimal() and int(size) for size in settings.copies)
    if not numbers or len(settings.copies) < 2 or sorted(set(settings.sizes)) != settings.sizes:
        problems.append(f"--copies {','.join(settings.copies)}: two or more whole numbers from 1, in ascending order")
    return problems


class Measured(NamedTuple):
    """Processor seconds of one thread, and whether they are extrapolated from a part."""

    seconds: float
    is_extrapolated: bool = False


class Cost(NamedTuple):
    """One cell of both tables."""

    measured: Measured
    peak: float  # resident GB of the process, its modules included


def growth(argv: list[str]) -> None:
    """Print seconds and peak memory of every stage at several sizes of the data, and how they grow.

    The data are those of the dataset with so many times the users, and so many variants of each item, one of which is
    sampled for each interaction. Every stage at every size has a separate process of one thread.
    """
    program = "python -m utils.benchmark growth"
    settings = parse_settings(GrowthSettings, argv, program, "Measure growth.", validate_growth_settings)
    file = f"{settings.dataset}.txt"
    source = require_files(settings.data_dir, settings.dataset, [file]) / file
    costs = {stage: [] for stage in STAGES}
    described = []
    for copies in settings.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            data = write_copies(source, copies, Path(temporary), settings.dataset)
            size = f"{data.n_users:,} users, {data.n_items:,} items, {data.n_interactions:,} interactions"
            described.append(f"x{copies}: {size}")
            for stage in STAGES:
                costs[stage].append(_cost(stage, replace(settings, data_dir=temporary), copies))
                print(f"x{copies} {stage}: {_format_seconds(costs[stage][-1])} s", flush=True)
    _report(settings, described, costs)


def _cost(stage: str, settings: GrowthSettings, copies: int) -> Cost | None:
    try:
        return Cost(*in_own_process(_measure, stage, settings, copies))
    except MemoryError as error:
        print(f"x{copies} {stage}: {error}", flush=True)
        return None


def _measure(stage: str, settings: GrowthSettings, copies: int) -> Measured:
    return STAGES[stage](settings, copies)


def write_copies(source: Path, copies: int, data_dir: Path, name: str) -> Interactions:
    """Write an interaction file with the users of `source` several times and as many variants of each item."""
    data = Interactions(source, 0)
    rng = np.random.default_rng(0)
    folder = dataset_folder(data_dir, name)
    folder.mkdir(parents=True)
    path = folder / f"{name}.txt"
    with path.open("w") as file:
        for copy in range(copies):
            items = (data.items + data.n_items * rng.integers(0, copies, data.n_interactions)).astype(str)
            for user, start in enumerate(data.start, copy * data.n_users):
                row = items[start : start + data.n_kept[user % data.n_users]]
                file.write(f"{user} {' '.join(row)}\n")
    return Interactions(path, 0)


# ---------------------------------------------------------------- stages


def _read(settings: GrowthSettings, _copies: int) -> Measured:
    started = time.process_time()
    _open(settings)
    return Measured(time.process_time() - started)


def _open(settings: GrowthSettings) -> Interactions:
    return Interactions(dataset_folder(settings.data_dir, settings.dataset) / f"{settings.dataset}.txt", 0)


def _dense_features(n_items: int) -> torch.Tensor:
    return torch.randn(n_items, FEATURE_WIDTH, generator=torch.Generator().manual_seed(0))


def _word_features(n_items: int) -> sp.csr_matrix:
    """Return random weights of words, as many per item as Beauty's texts have: CSR (I, words)."""
    rng = np.random.default_rng(0)
    n_words = max(int(WORDS_PER_ROOT_ITEM * math.sqrt(n_items)), WORDS_PER_ITEM)
    items = np.repeat(np.arange(n_items), WORDS_PER_ITEM)
    words = rng.integers(0, n_words, items.size)
    return sp.csr_matrix((rng.random(items.size, np.float32), (items, words)), (n_items, n_words))


def _find_neighbours(
    make_features: Callable[[int], torch.Tensor | sp.csr_matrix], settings: GrowthSettings, _copies: int
) -> Measured:
    """Time some hyperedges and twice as many; then all of them, or their time by the difference."""
    features = make_features(_open(settings).n_items)
    n_items = features.shape[0]

    def search(n_edges: int) -> float:
        started = time.process_time()
        neighbour_incidence(features, NEIGHBOURS, n_edges)
        return time.process_time() - started

    few = min(SAMPLED_EDGES, n_items // 2)
    seconds_of_few = search(few)
    seconds = search(2 * few)
    seconds += (n_items - 2 * few) * max(seconds - seconds_of_few, 0) / few
    return Measured(seconds, True) if seconds > settings.limit else Measured(search(n_items))


def _train(open_training: Callable, settings: GrowthSettings, copies: int) -> Measured:
    """Time an epoch; MMHCL's batch grows with the data, since every step passes through the whole graph."""
    training = open_training(settings, copies)
    seconds, timed_steps = training.time_epoch(TIMED_STEPS, settings.limit)
    return Measured(seconds, timed_steps < len(training.batches))


def _rank_by_product(settings: GrowthSettings, _copies: int) -> Measured:
    data = _open(settings)
    R = interaction_matrix(*data.training_pairs(), (data.n_users, data.n_items))
    users = torch.randn(data.n_users, FEATURE_WIDTH)
    items = torch.randn(data.n_items, FEATURE_WIDTH)

    def rank(samples: Samples) -> None:
        rank_by_product(users, items, R, samples.user, data.targets(samples))

    return _time_ranking(rank, data.test(), settings.limit)


def _rank_by_best(settings: GrowthSettings, _copies: int) -> Measured:
    training = open_best(settings)
    return _time_ranking(training.evaluate, training.data.test(), settings.limit)


def _time_ranking(rank: Callable[[Samples], object], samples: Samples, limit: float) -> Measured:
    """Time how long some users' rankings take, at most RANKED_USERS, in random order."""
    chosen = np.random.default_rng(0).permutation(len(samples))[:RANKED_USERS]
    parts = []
    for first in range(0, len(chosen), USERS_PER_PART):
        rows = chosen[first : first + USERS_PER_PART]
        part = Samples(samples.user[rows], samples.start[rows], samples.length[rows])
        parts.append(partial(rank, part))
    parts[0]()  # warm-up
    seconds, done = time_parts(parts, limit)
    return Measured(seconds, done < len(parts))


STAGES: dict[str, Callable[[GrowthSettings, int], Measured]] = {
    "reading the interaction file": _read,
    f"finding neighbours, dense features {FEATURE_WIDTH} wide": partial(_find_neighbours, _dense_features),
    f"finding neighbours, {WORDS_PER_ITEM} words per item": partial(_find_neighbours, _word_features),
    "an epoch of MMHCL": partial(_train, open_mmhcl),
    "an epoch of SASRec": partial(_train, open_sasrec),
    "an epoch of best": partial(_train, open_best),
    f"ranking {RANKED_USERS:,} users, MMHCL": _rank_by_product,
    f"ranking {RANKED_USERS:,} users, best": _rank_by_best,
}


# ---------------------------------------------------------------- report


def _report(settings: GrowthSettings, described: list[str], costs: dict[str, list[Cost | None]]) -> None:
    """Print both tables: seconds and peak memory at every size, and the exponents between them."""
    print("\n".join(described))
    names = [f"x{copies}" for copies in settings.sizes]
    between = [f"exponent {a} to {b}" for a, b in zip(names, names[1:], strict=False)]
    print(
        "Seconds are user and system time of the processor in one thread; those with an asterisk are extrapolated from "
        f"a part, such as the steps of {settings.limit:g} s. A cost grows with size to the power of its exponent.\n"
    )
    print_table(
        ["seconds", *names, *between],
        [
            [stage, *map(_format_seconds, row), *_exponents(settings, [c and c.measured.seconds for c in row])]
            for stage, row in costs.items()
        ],
    )
    print()
    print_table(
        ["peak GB of the process", *names, *between],
        [
            [stage, *(f"{c.peak:.2f}" if c else "–" for c in row), *_exponents(settings, [c and c.peak for c in row])]
            for stage, row in costs.items()
        ],
    )


def _format_seconds(cost: Cost | None) -> str:
    if cost is None:
        return "–"
    seconds, is_extrapolated = cost.measured
    return f"{seconds:,.{1 if seconds >= 10 else 2}f}{'*' if is_extrapolated else ''}"


def _exponents(settings: GrowthSettings, values: list[float | None]) -> list[str]:
    """Return the exponent of growth between each size and the next; a dash where one is not known."""
    exponents = []
    for number, (smaller, larger) in enumerate(zip(values, values[1:], strict=False)):
        growth_of_data = settings.sizes[number + 1] / settings.sizes[number]
        known = smaller and larger
        exponents.append(f"{math.log(larger / smaller) / math.log(growth_of_data):.2f}" if known else "–")
    return exponents
