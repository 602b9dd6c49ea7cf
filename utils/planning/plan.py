"""Sizes and costs of a run before it: no weights, no tables, nothing allocated."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from config_HeLLM import Settings, non_default_settings
from llama.HeLLM import HeLLM
from llama.parallel import dp_size, mp_size
from utils.data.batches import training_batches
from utils.data.embeddings import load_embedding
from utils.data.interactions import Interactions
from utils.data.layout import required_files
from utils.logs.run_log import NON_DEFAULT_SETTINGS, settings_line
from utils.planning.batch_size import describe_choice, fit_batch_sizes
from utils.planning.simulation import MemorySimulator, memory_profile
from utils.runtime.distributed import init_processes, is_main
from utils.runtime.memory import GIB
from utils.training.build import load_interactions
from utils.training.prompt import prompt_positions_per_row

PUBLISHED_WIDTH = 64  # of both tables, assumed where they are not there to be read
# The published run on a 24 GB card: 0.23 s a step of 7 samples of 92 positions (SPEC.md section 6), each
# 2.35 TFLOP by this module's count at LLaMA-2-7B; that is 72 TFLOP/s.
PUBLISHED_FLOPS_PER_S = 7 * 2.35e12 / 0.23


def component_of(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    if ".lora." in name or ".prefix_" in name:
        return "LoRA" if ".lora." in name else "prefix"
    return name.split(".")[0].replace("llama", "base without head")


def count_parameters(model: HeLLM) -> dict[str, tuple[int, int]]:
    """Parameters by part: name to (all, trained)."""
    parts = {}
    for name, p in model.named_parameters():
        total, trained = parts.get(component_of(name), (0, 0))
        parts[component_of(name)] = (total + p.numel(), trained + p.numel() * p.requires_grad)
    return parts


def training_flops(model: HeLLM, length: int, batch_size: int) -> float:
    """Floating-point operations a sample, counted on a pass over tensors without content.

    Args:
        length: items of every history; batch_size: samples, under the causal objective users, each of whose items
            is a sample.
    """
    items = torch.zeros(batch_size, length, dtype=torch.int64)
    targets = items if model.args.objective == "causal" else items[:, 0]
    with FlopCounterMode(display=False) as counter:
        model.loss(items, None, targets).backward()
    return counter.get_total_flops() / targets.numel()


def run_header(settings: Settings, model: HeLLM) -> list[str]:
    """What a run says of itself before it trains, as lines."""
    lines = [settings_line(NON_DEFAULT_SETTINGS, non_default_settings(settings))]
    if settings.max_memory:
        lines.append(describe_choice(settings))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    each = f" (each of {mp_size()} processes)" if mp_size() > 1 else ""
    lines.append(f"trainable params: {trained:,} || all params: {total:,}{each}")
    if dp_size() > 1:
        lines.append(f"{dp_size()} replicas share the {settings.batch_size * settings.grad_steps} samples of a step")
    return lines


def print_plan(settings: Settings) -> None:
    """Print sizes and costs, from the interaction file and the model's shape alone."""
    data = load_interactions(settings)
    paths = [data.path.parent / name for name in required_files(settings.dataset, settings.GNNModel)[1:]]
    widths = tuple(load_embedding(p).shape[1] if p.is_file() else PUBLISHED_WIDTH for p in paths)
    init_processes(settings.model_parallel, settings.model_name)
    device = torch.device("cpu" if settings.device == "cpu" else "cuda")  # wherever the plan is printed
    simulation = MemorySimulator(memory_profile(settings, data, widths, device))
    lines = []
    if settings.max_memory:
        settings = fit_batch_sizes(settings, simulation)
        lines.append(describe_choice(settings))
    lines += plan_lines(settings, simulation, data)
    if is_main():
        print("\n".join(lines))


def plan_lines(settings: Settings, simulation: MemorySimulator, data: Interactions) -> list[str]:
    """The lines that `--plan` prints."""
    causal, samples = settings.objective == "causal", data.training(settings.objective)
    n_samples = samples.n_targets()
    size = settings.batch_size * settings.grad_steps
    lines = memory_lines(settings, simulation)
    with simulation.fake:
        mean = round(samples.length.mean())
        flops = training_flops(simulation.model.train(), mean, settings.batch_size if causal else 1)
    lines.append(f"users {data.n_users:,}  items {data.n_items:,}  interactions {data.n_interactions:,}")
    users, tokens = f" of {len(samples):,} users" if causal else "", settings.tokens_per_batch
    constant = prompt_positions_per_row(settings.objective, settings.prompt)
    steps = len(training_batches(samples.length, size, 0, 0, tokens * settings.grad_steps, constant))
    sizes = f"{f'{tokens} positions' if tokens else settings.batch_size} x {settings.grad_steps}"
    lines.append(f"training samples {n_samples:,}{users}: {steps:,} steps an epoch of {sizes}")
    lines.append(f"{flops / 1e9:,.2f} GFLOP a training sample (history of {mean} items, forward and backward)")
    return [*lines, estimated_hours(flops, n_samples, settings.num_epochs)]


def memory_lines(settings: Settings, simulation: MemorySimulator) -> list[str]:
    """Parameters by part, and what they and a batch of the longest histories need at most, as lines."""
    parts = count_parameters(simulation.model)
    total, trained = (sum(part[i] for part in parts.values()) for i in (0, 1))
    lines = [f"trainable params: {trained:,} || all params: {total:,}"]
    lines += [f"  {name:<18} {n:>15,} params, {t:,} trained" for name, (n, t) in parts.items()]
    rows = settings.batch_size
    if settings.tokens_per_batch:
        width = simulation.job.longest[0] + prompt_positions_per_row(settings.objective, settings.prompt)
        rows = max(settings.tokens_per_batch // width, 1)
    training = simulation.step_peak(rows * settings.grad_steps, rows)
    scoring = simulation.scoring_peak(settings.eval_batch_size)
    lines.append(
        f"estimated peak on the device: {max(training, scoring) / GIB:.2f} GiB (longest histories; training "
        f"{training / GIB:.2f} GiB, scoring {settings.eval_batch_size} users {scoring / GIB:.2f} GiB)"
    )
    held = dict.fromkeys(parts, 0)
    for name, p in simulation.model.named_parameters():
        held[component_of(name)] += p.nbytes + 8 * p.numel() * p.requires_grad  # Adam's two moments
    held["tables"] = sum(buffer.nbytes for buffer in simulation.model.buffers())
    held["a training step"] = training - sum(held.values())  # its gradients and activations
    return lines + [f"  {name:<18} {size / GIB:>8.3f} GiB" for name, size in held.items()]


def estimated_hours(flops: float, n_samples: int, num_epochs: int) -> str:
    """How long training takes at the published run's utilisation, with the formula; `flops` a sample."""
    total = flops * n_samples * num_epochs
    return (
        f"{n_samples:,} samples x {num_epochs} epochs x {flops / 1e9:,.2f} GFLOP = {total / 1e15:,.2f} PFLOP: "
        f"{total / PUBLISHED_FLOPS_PER_S / 3600:.2f} hours of training at the published run's "
        f"{PUBLISHED_FLOPS_PER_S / 1e12:.0f} TFLOP/s on a 24 GB card (validation not counted)"
    )
