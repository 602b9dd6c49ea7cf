"""Memory predicted and measured: the parts `memory` and `full` of utils.benchmark."""

import ctypes
import gc
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from config_HeLLM import Settings, parse_args
from llama.HeLLM import HeLLM
from llama.parallel import clip_grad_norm
from utils.data.interactions import Interactions, Samples
from utils.evaluation.ranking import ranks_with_and_without_seen
from utils.planning.plan import PUBLISHED_WIDTH
from utils.planning.simulation import MemoryProfile, MemorySimulator, memory_profile, random_model
from utils.runtime.memory import reset_peak_rss, rss_bytes
from utils.runtime.seed import seed_everything
from utils.training.build import load_interactions

SIZES = {  # name to flags: a frozen base with LoRA, and two that are trained from scratch
    "S, prefix": ("--model_name", "S"),
    "S, causal": ("--model_name", "S", "--objective", "causal", "--prompt", "none"),
    "tiny, prefix": ("--preset", "tiny"),
    "tiny, causal": ("--preset", "best"),
}
WIDTHS = (PUBLISHED_WIDTH, PUBLISHED_WIDTH)
# So that what is released goes back to the system: one pool, and pages of its own for everything from 64 KiB
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


@dataclass
class MemoryMeasurement:
    """Bytes and seconds of one run in a process of its own."""

    built: float  # seconds
    step: float  # seconds
    training: int  # most resident bytes in a training step, and in scoring, beyond those before the model
    scoring: int
    process: int  # most resident bytes of the whole process


def memory(argv: list[str]) -> None:
    """Print predicted and measured memory of several sizes, each in a process of its own, on the CPU.

    Measured are the longest histories of the data: two optimiser steps and a scored batch, random weights and tables.
    """
    print("| size | batch x passes | training, GB | predicted | ratio | users | scoring, GB | predicted | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, flags in SIZES.items():
        settings = _settings([*flags, *argv])
        found, training, scoring = predicted_and_measured(settings)
        cells = [name, f"{settings.batch_size} x {settings.grad_steps}", f"{found.training / 1e9:.3f}"]
        cells += [f"{training / 1e9:.3f}", f"{training / found.training:.3f}", str(settings.eval_batch_size)]
        cells += [f"{found.scoring / 1e9:.3f}", f"{scoring / 1e9:.3f}", f"{scoring / found.scoring:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def predicted_and_measured(
    settings: Settings, steps: int = 2, whole: bool = False
) -> tuple[MemoryMeasurement, int, int]:
    """What a new process measures, and the predicted bytes of training and of scoring.

    Args:
        steps: of the optimiser; whole: do nothing beforehand, so that the process's peak is the run's.
    """
    with _environment(ALLOCATOR), multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_measure, (settings, steps, not whole))
    simulation, size = MemorySimulator(_profile(settings)), settings.batch_size * settings.grad_steps
    return found, simulation.step_peak(size, settings.batch_size), simulation.scoring_peak(settings.eval_batch_size)


def full(argv: list[str]) -> None:
    """Print the most memory of a whole process that builds a model, trains one step at batch 1 and scores one user.

    LLaMA-2-7B with random bfloat16 weights unless flags say otherwise.
    """
    settings = _settings(["--dtype", "bf16", "--batch_size", "1", "--eval_batch_size", "1", *argv])
    found, *expected = predicted_and_measured(settings, steps=1, whole=True)
    print(f"{settings.model_name}, {settings.dtype}, {torch.get_num_threads()} threads")
    print(f"built in {found.built:.1f} s, a training step in {found.step:.1f} s")
    predicted = max(expected) / 1e9
    print(f"peak memory of the whole process {found.process / 1e9:.2f} GB, predicted for tensors {predicted:.2f} GB")


def _settings(argv: list[str]) -> Settings:
    return replace(parse_args(argv), device="cpu", plan=True)  # plan: a built-in size may be frozen


def _profile(settings: Settings) -> MemoryProfile:
    return memory_profile(settings, load_interactions(settings), WIDTHS, torch.device("cpu"))


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def _measure(settings: Settings, steps: int, warm: bool) -> MemoryMeasurement:
    data, profile = load_interactions(settings), _profile(settings)
    seed_everything(settings.seed)
    if warm:  # the libraries' code and their own stores are then in memory
        small = replace(profile.args, dim=32, n_layers=1, n_heads=2, n_kv_heads=None, vocab_size=2, graph_rank=2)
        _run(random_model(replace(profile, args=small)), replace(settings, batch_size=2, eval_batch_size=2), data, 1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, started = rss_bytes(), time.perf_counter()
    model = random_model(profile)
    built, building = time.perf_counter() - started, rss_bytes("VmHWM")
    training, scoring, step = _run(model, settings, data, steps)
    return MemoryMeasurement(built, step, training - before, scoring - before, max(building, training, scoring))


def _run(model: HeLLM, settings: Settings, data: Interactions, steps: int) -> tuple[int, int, float]:
    """Most resident bytes while training and while scoring, and seconds of the last optimiser step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    samples = data.training(settings.objective)
    batch = data.batch(samples, _longest(samples, settings.batch_size))
    reset_peak_rss()
    for _ in range(steps):
        started = time.perf_counter()
        for _ in range(settings.grad_steps):
            model.train().loss(*batch).backward()
        if settings.max_grad_norm:
            clip_grad_norm(model, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        step = time.perf_counter() - started
    training = rss_bytes("VmHWM")
    samples = data.test()
    rows = _longest(samples, settings.eval_batch_size)
    items, mask, _ = data.batch(samples, rows)
    reset_peak_rss()
    with torch.no_grad():
        ranks_with_and_without_seen(model.eval()(items, mask), *data.batch(data.whole(samples), rows))
    return training, rss_bytes("VmHWM"), step


def _longest(samples: Samples, n: int):
    return samples.length.argsort(kind="stable")[::-1][:n]
