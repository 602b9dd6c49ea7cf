"""Batch sizes that fit into a memory budget, by simulation."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from config_HeLLM import Settings
from llama.HeLLM import HeLLM, ItemTables
from utils.data.interactions import Interactions
from utils.planning.simulation import MemorySimulator, simulate
from utils.runtime.byte_sizes import GIB, parse_bytes
from utils.runtime.memory import device_memory


def divisors_descending(number: int) -> list[int]:
    """Return the divisors of a positive number, largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def largest_within(sizes: Sequence[int], peak: Callable[[int], int], limit: int) -> int:
    """Return the largest size whose peak is within the limit, or 0 if none is.

    Args:
        sizes: candidates, in descending order.
        peak: bytes needed at a size; must not decrease as the size grows.
        limit: bytes.
    """
    if sizes and peak(sizes[0]) <= limit:  # the usual case, without a search
        return sizes[0]
    first_fit = bisect_left(sizes, True, key=lambda size: peak(size) <= limit)
    return sizes[first_fit] if first_fit < len(sizes) else 0


def fit_batch_sizes(settings: Settings, simulator: MemorySimulator) -> Settings:
    """Return the settings with the largest batch sizes that fit into --max_memory.

    `batch_size` x `grad_steps`, the samples of an optimizer step, stays the same.

    Raises:
        ValueError: not even one sample, or one user to score, fits. Names the predicted need.
    """
    limit = parse_bytes(settings.max_memory)
    effective = settings.batch_size * settings.grad_steps
    step_peak = partial(simulator.step_peak, effective)
    batch_size = largest_within(divisors_descending(effective), step_peak, limit)
    users = largest_within(range(settings.eval_batch_size, 0, -1), simulator.scoring_peak, limit)

    needs = []
    if not batch_size:
        needs.append(f"training one sample at a time needs {step_peak(1) / GIB:.3f} GiB")
    if not users:
        needs.append(f"scoring one user at a time needs {simulator.scoring_peak(1) / GIB:.3f} GiB")
    if needs:
        raise ValueError(
            f"--max_memory {settings.max_memory}: {' and '.join(needs)} (predicted); raise the limit, or choose a "
            "smaller model, fewer trained parts (--plan lists their sizes) or a shorter --max_len"
        )
    return replace(settings, batch_size=batch_size, grad_steps=effective // batch_size, eval_batch_size=users)


def fit_to_max_memory(settings: Settings, data: Interactions, tables: ItemTables, device: torch.device) -> Settings:
    """Return the settings with batch sizes that fit into --max_memory; without it, as they are.

    Args:
        settings: settings of the run.
        data: interactions.
        tables: tables of the items.
        device: where the run is computed.

    Raises:
        ValueError: nothing fits, see `fit_batch_sizes`.
    """
    if not settings.max_memory:
        return settings
    return fit_batch_sizes(settings, simulate(settings, data, tables, device))


def describe_choice(settings: Settings) -> str:
    """Return the line that reports the batch sizes chosen for --max_memory."""
    sizes = f"--batch_size {settings.batch_size} --grad_steps {settings.grad_steps}"
    return f"--max_memory {settings.max_memory}: {sizes} --eval_batch_size {settings.eval_batch_size}"


def suggest_batch_size(settings: Settings, data: Interactions, model: HeLLM, device: torch.device) -> str:
    """Return advice on which batch size to resume with after the device ran out of memory.

    The advice concerns training if the model is in training mode, else scoring. The size is at most half the
    current one and predicted to fit into the device's memory.
    """
    simulator = simulate(settings, data, model.tables, device)
    effective = settings.batch_size * settings.grad_steps
    if model.training:
        flag = "--batch_size"
        peak = partial(simulator.step_peak, effective)
        sizes = [size for size in divisors_descending(effective) if size <= settings.batch_size // 2]
    else:
        flag = "--eval_batch_size"
        peak = simulator.scoring_peak
        sizes = range(settings.eval_batch_size // 2, 0, -1)
    size = largest_within(sizes, peak, device_memory(device))
    if not size:
        return f"{flag} 1 is predicted to need {peak(1) / GIB:.3f} GiB: provide more memory or shorten --max_len"
    accumulation = f" --grad_steps {effective // size}" if model.training else ""
    return f"{flag} {size}{accumulation} is predicted to fit, in {peak(size) / GIB:.3f} GiB"
