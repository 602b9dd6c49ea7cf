"""How much memory a run will need, and batch sizes that fit into the memory there is."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from config_HeLLM import Settings
from llama.HeLLM import HeLLM
from utils.data.interactions import Interactions
from utils.planning.simulation import MemorySimulator, simulate
from utils.runtime.memory import GIB, device_memory, parse_bytes


def divisors_descending(number: int) -> list[int]:
    """Descending."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def largest_within(sizes: Sequence[int], peak: Callable[[int], int], limit: int) -> int:
    """The first of some descending sizes whose peak, which grows with the size, is within the limit; 0: none is."""
    if sizes and peak(sizes[0]) <= limit:  # the likely case
        return sizes[0]
    at = bisect_left(sizes, True, key=lambda size: peak(size) <= limit)
    return sizes[at] if at < len(sizes) else 0


def fit_batch_sizes(settings: Settings, simulation: MemorySimulator) -> Settings:
    """Settings with the largest batch sizes that --max_memory allows, the samples of an optimiser step unchanged.

    Raises:
        ValueError: not even one sample, or one user to score, fits; names the predicted need.
    """
    limit = parse_bytes(settings.max_memory)
    effective = settings.batch_size * settings.grad_steps
    size = largest_within(divisors_descending(effective), partial(simulation.step_peak, effective), limit)
    users = largest_within(range(settings.eval_batch_size, 0, -1), simulation.scoring_peak, limit)
    needs = []
    if not size:
        needs.append(f"training one at a time needs {simulation.step_peak(effective, 1) / GIB:.3f} GiB")
    if not users:
        needs.append(f"scoring one user needs {simulation.scoring_peak(1) / GIB:.3f} GiB")
    if needs:
        raise ValueError(
            f"--max_memory {settings.max_memory}: {' and '.join(needs)} by prediction; allow more, or take a smaller "
            "model, fewer trained parts (--plan shows their sizes) or a shorter --max_len"
        )
    return replace(settings, batch_size=size, grad_steps=effective // size, eval_batch_size=users)


def describe_choice(settings: Settings) -> str:
    """What was chosen for --max_memory."""
    sizes = f"--batch_size {settings.batch_size} --grad_steps {settings.grad_steps}"
    return f"--max_memory {settings.max_memory}: {sizes} --eval_batch_size {settings.eval_batch_size}"


def suggest_batch_size(settings: Settings, data: Interactions, model: HeLLM, device: torch.device) -> str:
    """The setting to go on with after memory ran out, in training or in scoring, whichever the model is at.

    At most half the batch, and predicted to need no more than the device has.
    """
    simulation = simulate(settings, data, (model.graph_item_embedding, model.seq_item_embedding), device)
    training, limit = model.training, device_memory(device)
    effective = settings.batch_size * settings.grad_steps
    if training:
        peak, flag = partial(simulation.step_peak, effective), "--batch_size"
        sizes = [size for size in divisors_descending(effective) if size <= settings.batch_size // 2]
    else:
        peak, flag = simulation.scoring_peak, "--eval_batch_size"
        sizes = range(settings.eval_batch_size // 2, 0, -1)
    size = largest_within(sizes, peak, limit)
    if not size:
        return f"{flag} 1 is predicted to need {peak(1) / GIB:.3f} GiB: take more memory, or a shorter --max_len"
    passes = f" --grad_steps {effective // size}" if training else ""
    return f"{flag} {size}{passes} is predicted to fit, in {peak(size) / GIB:.3f} GiB"
