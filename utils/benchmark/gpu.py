"""What a GPU makes of a run, in one command: the part `gpu` of utils.benchmark."""

import statistics
import time
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from config_HeLLM import Settings, parse_args
from utils.benchmark.train import ROUNDS, Training, synchronize
from utils.data.batches import scoring_batches
from utils.planning.batch_size import describe_choice, fit_batch_sizes
from utils.planning.plan import PUBLISHED_WIDTH
from utils.planning.simulation import MemorySimulator, memory_profile
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import peak_memory
from utils.training.build import load_interactions

SCORED = 10  # scoring batches that are timed, from the shortest histories to the longest


def gpu(argv: list[str]) -> None:
    """Print step time, share of peak, memory and users/s at LLaMA-2-7B's shape; with --compile, compiled as well.

    Weights and tables are random; with --max_memory the batch sizes are those that fit. Also prints which operations
    of a training step leave their results elsewhere than on the device.
    """
    settings, expected = _sizes(parse_args(argv))
    for compiled in [False, True][: 1 + settings.compile]:
        started = time.perf_counter()
        run = Training(replace(settings, compile=compiled))
        if not compiled:
            run.count()
            print(f"results elsewhere than on {run.device}: {elsewhere(run) or 'none'}", flush=True)
        run.samples_per_s()  # compiles
        ready = time.perf_counter() - started
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        speed = statistics.median(run.samples_per_s() for _ in range(ROUNDS))
        users, peak = users_per_s(run), peak_memory(run.device) / 1e9
        if not compiled:
            run.report(speed)
        step = run.samples.n_targets() / len(run.batches) / speed
        print(
            f"--{'' if compiled else 'no-'}compile: {step:.3f} s a step, {speed:,.1f} samples/s, {users:,.1f} users/s, "
            f"{peak:.2f} GB at most (predicted {expected / 1e9:.2f}), ready after {ready:.0f} s",
            flush=True,
        )
        del run


def _sizes(settings: Settings) -> tuple[Settings, int]:
    """Settings with the batch sizes that fit, and the bytes they are predicted to need."""
    settings, widths = replace(settings, plan=True), (PUBLISHED_WIDTH, PUBLISHED_WIDTH)
    simulation = MemorySimulator(
        memory_profile(settings, load_interactions(settings), widths, resolve_device(settings.device))
    )
    if settings.max_memory:
        settings = fit_batch_sizes(settings, simulation)
        print(describe_choice(settings), flush=True)
    training = simulation.step_peak(settings.batch_size * settings.grad_steps, settings.batch_size)
    return settings, max(training, simulation.scoring_peak(settings.eval_batch_size))


class Elsewhere(TorchDispatchMode):
    """Counts operations with results of more than one number that are not on a device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.numel() > 1]
        self.found.update(str(operation) for t in tensors if t.device.type != self.device.type)
        return result


def elsewhere(run: Training) -> dict[str, int]:
    """Operations of a training step whose results are not on the run's device, and how many there are."""
    rows = run.batches[0]
    batch = run.batch(run.samples, rows)
    with Elsewhere(run.device) as mode:
        run.model.loss(*batch, run.samples.n_targets(rows)).backward()
        run.optimizer.step()
    run.optimizer.zero_grad()
    return dict(mode.found)


@torch.no_grad()
def users_per_s(run: Training) -> float:
    """Test users whose items are all scored."""
    samples, done = run.data.test(), 0
    batches = list(scoring_batches(samples.length, run.settings.eval_batch_size))
    run.model.eval()
    chosen = batches[:: -(-len(batches) // SCORED)]
    run.model(*run.batch(samples, chosen[0])[:2])
    synchronize(run.device)
    started = time.perf_counter()
    for rows in chosen:
        run.model(*run.batch(samples, rows)[:2])
        done += len(rows)
    synchronize(run.device)
    run.model.train()
    return done / (time.perf_counter() - started)
