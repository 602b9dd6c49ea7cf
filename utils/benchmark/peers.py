"""Our rows of the table that compares trainings: `python -m utils.benchmark peers`."""

import time
from dataclasses import dataclass

from utils.benchmark.measure import DataSettings, in_own_process, print_table, validate_data_settings
from utils.benchmark.trainings import TRAININGS
from utils.cli.flags import parse_settings

TIMED_STEPS = 24
STEP_LIMIT = 60.0  # processor seconds after which no further step is timed


@dataclass
class TrainingCost:
    """What one training costs, in processor seconds of one thread."""

    timed_steps: int
    steps: int  # per epoch
    epoch_seconds: float
    targets: int  # per epoch
    users_per_s: float


def peers(argv: list[str]) -> None:
    """Print the costs of SASRec, MMHCL and `best`: seconds per epoch, targets/s, users/s and peak memory.

    Each is measured in a separate process of one thread. An epoch is extrapolated from some timed steps. All items are
    ranked for every test user. Only the interaction file is read.
    """
    program = "python -m utils.benchmark peers"
    settings = parse_settings(DataSettings, argv, program, "Measure our trainings.", validate_data_settings)
    rows = []
    for name in TRAININGS:
        cost, peak = in_own_process(_measure, name, settings)
        rows.append(
            [
                name,
                f"{cost.timed_steps} of {cost.steps:,}",
                f"{cost.epoch_seconds:.1f}",
                f"{cost.targets:,}",
                f"{cost.targets / cost.epoch_seconds:,.0f}",
                f"{cost.users_per_s:,.0f}",
                f"{peak:.2f}",
            ]
        )
    print(
        f"{settings.dataset}, one thread; seconds are user and system time of the processor, those of an epoch "
        "extrapolated from the timed steps; users/s rank all items for the test users; embedding tables and the items' "
        "neighbours are random"
    )
    columns = ["training", "timed steps", "s per epoch", "targets per epoch", "targets/s", "users/s", "peak GB"]
    print_table(columns, rows)


def _measure(name: str, settings: DataSettings) -> TrainingCost:
    training = TRAININGS[name](settings)
    epoch_seconds, timed_steps = training.time_epoch(TIMED_STEPS, STEP_LIMIT)
    samples = training.data.test()
    started = time.process_time()
    training.evaluate(samples)
    users_per_s = len(samples) / (time.process_time() - started)
    targets = sum(map(training.n_targets, training.batches))
    return TrainingCost(timed_steps, len(training.batches), epoch_seconds, targets, users_per_s)
