"""Compare predicted and measured memory: `python -m utils.benchmark memory` and `full`."""

import ctypes
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from config_HeLLM import Settings, parse_args
from llama.HeLLM import HeLLM
from llama.parallel import clip_grad_norm
from utils.benchmark.measure import in_new_process
from utils.data.batches import collate, scoring_batches
from utils.data.interactions import Interactions, Samples
from utils.evaluation.target_ranks import ranks_with_and_without_seen
from utils.planning.plan import assumed_widths
from utils.planning.simulation import MemoryProfile, MemorySimulator, memory_profile, random_model
from utils.runtime.memory import reset_peak_rss, rss_bytes
from utils.runtime.seed import seed_everything
from utils.training.build import load_interactions

SIZES = {  # name -> flags: a frozen base with LoRA, and a model that is trained from scratch
    "S, prefix": ("--model_name", "S"),
    "S, causal": ("--model_name", "S", "--objective", "causal", "--prompt", "none"),
    "tiny, prefix": ("--preset", "tiny"),
    "tiny, causal": ("--preset", "best"),
}
# glibc returns freed memory to the system at once: a single arena, and separate pages for every block from 64 KiB
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


@dataclass
class MemoryMeasurement:
    """Memory and time of one run, measured in a separate process."""

    build_seconds: float
    step_seconds: float
    training: int  # peak resident bytes of a training step, beyond those before the model was built
    scoring: int  # the same of scoring
    process: int  # peak resident bytes of the whole process


def memory(argv: list[str]) -> None:
    """Print predicted and measured memory of several sizes on the CPU, each in a separate process.

    Each trains two optimizer steps on the longest histories of the data and scores its two largest batches, with
    random weights and embeddings.
    """
    print("| size | batch x passes | training, GB | predicted | ratio | users | scoring, GB | predicted | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, flags in SIZES.items():
        settings = _cpu_settings([*flags, *argv])
        measured, training, scoring = predicted_and_measured(settings)
        cells = [
            name,
            f"{settings.batch_size} x {settings.grad_steps}",
            f"{measured.training / 1e9:.3f}",
            f"{training / 1e9:.3f}",
            f"{training / measured.training:.3f}",
            str(settings.eval_batch_size),
            f"{measured.scoring / 1e9:.3f}",
            f"{scoring / 1e9:.3f}",
            f"{scoring / measured.scoring:.3f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def full(argv: list[str]) -> None:
    """Print the peak memory of a process that builds a model, trains one step at batch 1 and scores one user.

    The model is LLaMA-2-7B with random bfloat16 weights unless flags say otherwise.
    """
    settings = _cpu_settings(["--dtype", "bf16", "--batch_size", "1", "--eval_batch_size", "1", *argv])
    measured, training, scoring = predicted_and_measured(settings, steps=1, warm_up=False)
    print(f"{settings.model_name}, {settings.dtype}, {torch.get_num_threads()} threads")
    print(f"built in {measured.build_seconds:.1f} s, a training step in {measured.step_seconds:.1f} s")
    print(
        f"peak memory of the whole process {measured.process / 1e9:.2f} GB, "
        f"predicted for tensors {max(training, scoring) / 1e9:.2f} GB"
    )


def predicted_and_measured(
    settings: Settings, steps: int = 2, warm_up: bool = True
) -> tuple[MemoryMeasurement, int, int]:
    """Return the measurement of a new process, and the predicted peak bytes of training and of scoring.

    Args:
        settings: settings of the run.
        steps: optimizer steps.
        warm_up: run a tiny model first, so that the libraries' memory does not count. Without it, the peak of the
            process is that of the run alone.
    """
    with _environment(ALLOCATOR):
        measured = in_new_process(_measure, settings, steps, warm_up)
    simulator = MemorySimulator(_profile(settings))
    training = simulator.step_peak(settings.batch_size * settings.grad_steps, settings.batch_size)
    return measured, training, simulator.scoring_peak(settings.eval_batch_size)


def _cpu_settings(argv: list[str]) -> Settings:
    return replace(parse_args(argv), device="cpu", plan=True)  # plan: a built-in size may be frozen without weights


def _profile(settings: Settings) -> MemoryProfile:
    return memory_profile(settings, load_interactions(settings), assumed_widths(settings), torch.device("cpu"))


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]
        os.environ.update(before)


def _measure(settings: Settings, steps: int, warm_up: bool) -> MemoryMeasurement:
    data = load_interactions(settings)
    profile = _profile(settings)
    seed_everything(settings.seed)
    if warm_up:
        tiny_args = replace(profile.args, dim=32, n_layers=1, n_heads=2, n_kv_heads=None, vocab_size=2, graph_rank=2)
        tiny = random_model(replace(profile, args=tiny_args))
        _run(tiny, replace(settings, batch_size=2, eval_batch_size=2), data, 1)
        del tiny
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)

    before = rss_bytes()
    started = time.perf_counter()
    model = random_model(profile)
    build_seconds = time.perf_counter() - started
    building = rss_bytes("VmHWM")
    training, scoring, step_seconds = _run(model, settings, data, steps)
    peak = max(building, training, scoring)
    return MemoryMeasurement(build_seconds, step_seconds, training - before, scoring - before, peak)


def _run(model: HeLLM, settings: Settings, data: Interactions, steps: int) -> tuple[int, int, float]:
    """Return the peak resident bytes of training and of scoring, and the seconds of the last optimizer step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    samples = data.training_samples(settings.objective)
    batch = collate(data, samples, _longest(samples, settings.batch_size), model.padding)
    reset_peak_rss()
    for _ in range(steps):
        started = time.perf_counter()
        for _ in range(settings.grad_steps):
            model.train().loss(*batch).backward()
        if settings.max_grad_norm:
            clip_grad_norm(model, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        step_seconds = time.perf_counter() - started
    training = rss_bytes("VmHWM")

    samples = data.test()
    batches = list(scoring_batches(samples.length, settings.eval_batch_size))
    model.eval()
    reset_peak_rss()
    for sample_idx in (batches[0], max(batches, key=len)):  # the longest histories, and the most users
        batch = collate(data, samples, sample_idx, model.padding)
        seen = torch.from_numpy(data.seen_items(samples, sample_idx))
        with torch.no_grad():
            ranks_with_and_without_seen(model(batch.items, batch.mask), seen, batch.targets)
    return training, rss_bytes("VmHWM"), step_seconds


def _longest(samples: Samples, n: int) -> np.ndarray:
    return samples.length.argsort(kind="stable")[::-1][:n]
