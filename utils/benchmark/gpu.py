"""Measure a run on a GPU: `python -m utils.benchmark gpu`."""

import statistics
import time
from dataclasses import replace

import torch

from config_HeLLM import Settings, parse_args
from utils.benchmark.train import ROUNDS, TrainingBenchmark, synchronize
from utils.data.batches import scoring_batches
from utils.planning.batch_size import describe_choice, fit_batch_sizes
from utils.planning.plan import assumed_widths
from utils.planning.simulation import MemorySimulator, memory_profile
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import peak_memory
from utils.training.build import load_interactions

N_SCORING_BATCHES = 10  # batches that are timed, spread from the longest histories to the shortest


def gpu(argv: list[str]) -> None:
    """Print step time, share of peak, memory and users/s; with --compile, compiled as well.

    Weights and embeddings are random. With --max_memory, the batch sizes are those that fit.
    """
    settings, predicted = _fit_and_predict(parse_args(argv))
    for compiled in (False, True) if settings.compile else (False,):
        started = time.perf_counter()
        run = TrainingBenchmark(replace(settings, compile=compiled))
        if not compiled:
            run.count_flops()
        run.samples_per_s()  # compiles
        ready = time.perf_counter() - started
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        speed = statistics.median(run.samples_per_s() for _ in range(ROUNDS))
        users = users_per_s(run)
        peak = peak_memory(run.device)
        if not compiled:
            run.report(speed)
        flag = "--compile" if compiled else "--no-compile"
        seconds_per_step = run.samples.n_targets() / len(run.batches) / speed
        print(
            f"{flag}: {seconds_per_step:.3f} s per step, {speed:,.1f} samples/s, {users:,.1f} users/s, peak memory "
            f"{peak / 1e9:.2f} GB (predicted {predicted / 1e9:.2f}), ready after {ready:.0f} s",
            flush=True,
        )
        del run  # frees the device's memory for the compiled run


def _fit_and_predict(settings: Settings) -> tuple[Settings, int]:
    """Return the settings with batch sizes that fit, and their predicted peak bytes."""
    settings = replace(settings, plan=True)  # a built-in size may then be frozen without weights
    data = load_interactions(settings)
    device = resolve_device(settings.device)
    simulator = MemorySimulator(memory_profile(settings, data, assumed_widths(settings), device))
    if settings.max_memory:
        settings = fit_batch_sizes(settings, simulator)
        print(describe_choice(settings), flush=True)
    training = simulator.step_peak(settings.batch_size * settings.grad_steps, settings.batch_size)
    return settings, max(training, simulator.scoring_peak(settings.eval_batch_size))


@torch.no_grad()
def users_per_s(run: TrainingBenchmark) -> float:
    """Return how many test users are scored per second."""
    samples = run.data.test()
    batches = list(scoring_batches(samples.length, run.settings.eval_batch_size))
    stride = -(-len(batches) // N_SCORING_BATCHES)
    timed = batches[::stride]
    run.model.eval()
    run.model(*run.batch(samples, timed[0])[:2])  # warm-up
    synchronize(run.device)
    started = time.perf_counter()
    for sample_idx in timed:
        run.model(*run.batch(samples, sample_idx)[:2])
    synchronize(run.device)
    seconds = time.perf_counter() - started
    run.model.train()
    return sum(map(len, timed)) / seconds
