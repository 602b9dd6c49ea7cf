"""Show which operations take the time of a training or of scoring: `python -m utils.benchmark profile`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch.profiler import ProfilerActivity, profile

from utils.benchmark.measure import DataSettings, in_own_process, print_table, validate_data_settings
from utils.benchmark.trainings import WARM_UP_STEPS, open_best, open_mmhcl, open_sasrec
from utils.cli.flags import parse_settings
from utils.data.interactions import Samples

OPEN = {"best": open_best, "sasrec": open_sasrec, "mmhcl": open_mmhcl, "score": open_best}
PROFILED_STEPS = 10
SCORED_USERS = 5120
SHOWN_OPERATIONS = 10


@dataclass(frozen=True)
class ProfileSettings(DataSettings):
    """What is profiled, and on which dataset."""

    what: Literal["best", "sasrec", "mmhcl", "score"] = "best"  # a training, or ranking by the model of `best`


@dataclass
class Profile:
    """Processor time of torch's operations, each without what it calls."""

    milliseconds: float  # all operations, per part
    operations: list[tuple[str, float, float]]  # name, milliseconds per part, calls per part; the slowest first


def profile_operations(argv: list[str]) -> None:
    """Print the operations of torch with the most processor time of their own in some steps, with their shares."""
    program = "python -m utils.benchmark profile"
    settings = parse_settings(ProfileSettings, argv, program, "Profile some steps.", validate_data_settings)
    result, _ = in_own_process(_profile, settings)
    unit = f"{SCORED_USERS:,} users" if settings.what == "score" else "step"
    print(f"{settings.what}, {settings.dataset}, one thread: {result.milliseconds:,.1f} ms per {unit}")
    rows = [
        [name, f"{milliseconds / result.milliseconds:.1%}", f"{milliseconds:.2f}", f"{calls:,.0f}"]
        for name, milliseconds, calls in result.operations
    ]
    print_table(["operation", "share", f"ms per {unit}", f"calls per {unit}"], rows)


def _profile(settings: ProfileSettings) -> Profile:
    training = OPEN[settings.what](settings)
    if settings.what == "score":
        run, parts = training.evaluate, [_some_users(training.data.test())]
    else:
        run, parts = training.step, training.sample_batches(PROFILED_STEPS)
    for part in parts[:WARM_UP_STEPS]:
        run(part)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for part in parts:
            run(part)

    scale = 1e3 * len(parts)  # microseconds of all parts to milliseconds of one
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return Profile(
        sum(event.self_cpu_time_total for event in events) / scale,
        [
            (event.key, event.self_cpu_time_total / scale, event.count / len(parts))
            for event in events[:SHOWN_OPERATIONS]
        ],
    )


def _some_users(samples: Samples) -> Samples:
    """Return as many users as are scored, some of them twice in a dataset that has fewer."""
    rows = np.resize(np.random.default_rng(0).permutation(len(samples)), SCORED_USERS)
    return Samples(samples.user[rows], samples.start[rows], samples.length[rows])
