"""Print the sizes and costs of a run before it starts; needs neither weights nor embeddings and allocates nothing."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from config_HeLLM import Settings
from llama.HeLLM import HeLLM
from llama.parallel import dp_size, mp_size
from utils.cli.progress import announce
from utils.data.batches import training_batches
from utils.data.embeddings import load_embedding
from utils.data.features import find_features, load_informative_features
from utils.data.interactions import Interactions
from utils.data.layout import SEQUENCE_TABLE, graph_table
from utils.logs.settings_table import settings_table
from utils.planning.batch_size import describe_choice, fit_batch_sizes
from utils.planning.simulation import MemorySimulator, memory_profile
from utils.runtime.byte_sizes import GIB
from utils.runtime.distributed import init_processes
from utils.runtime.processes import is_main
from utils.training.build import feature_files, load_interactions
from utils.training.prompt import prompt_positions_per_row

PUBLISHED_WIDTH = 64  # of both embedding tables; assumed where their files do not exist
# The published run takes 0.23 s for a step of 7 samples of 92 positions (docs/method.md, section 6). By this module's
# count a sample is 2.35 TFLOP at LLaMA-2-7B, which makes 72 TFLOP/s.
PUBLISHED_FLOPS_PER_S = 7 * 2.35e12 / 0.23
ADAM_BYTES = 8  # per trained parameter: two moments in float32


def component_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to."""
    if ".lora." in name:
        return "LoRA"
    if ".prefix_" in name:
        return "prefix"
    return name.split(".")[0].replace("llama", "base without head")


def count_parameters(model: HeLLM) -> dict[str, tuple[int, int]]:
    """Return the number of all and of trained parameters, by part."""
    parts = {}
    for name, p in model.named_parameters():
        part = component_of(name)
        total, trained = parts.get(part, (0, 0))
        parts[part] = (total + p.numel(), trained + p.numel() * p.requires_grad)
    return parts


def assumed_widths(settings: Settings) -> tuple[int, int, int]:
    """Return the widths of graph embeddings, sequence embeddings and features without their files; 0: not read."""
    graph_width = PUBLISHED_WIDTH * settings.reads_graph_table
    return graph_width, PUBLISHED_WIDTH * settings.seq_input, settings.feature_width * settings.feature_input


def table_widths(settings: Settings, data: Interactions) -> tuple[int, int, int]:
    """Return the widths of the tables, of those that have no file the assumed ones."""
    widths = list(assumed_widths(settings))
    for position, name in enumerate((graph_table(settings.GNNModel), SEQUENCE_TABLE)):
        path = data.path.with_name(name)
        if widths[position] and path.is_file():
            widths[position] = load_embedding(path).shape[1]
    if settings.feature_input and find_features(data.path.parent):
        features, _ = load_informative_features(feature_files(settings).values(), data.n_items, bool(settings.features))
        widths[2] = sum(min(settings.feature_width, *matrix.shape) for matrix in features.values())
    return tuple(widths)


def training_flops(model: HeLLM, length: int, batch_size: int) -> float:
    """Return the floating-point operations per training sample, forward and backward.

    Args:
        model: model on fake tensors, in training mode.
        length: items of every history.
        batch_size: samples; under the causal objective users, each of whose items is a sample.
    """
    items = torch.zeros(batch_size, length, dtype=torch.int64)
    targets = items if model.args.objective == "causal" else items[:, 0]
    with FlopCounterMode(display=False) as counter:
        model.loss(items, None, targets).backward()
    return counter.get_total_flops() / targets.numel()


def run_header(settings: Settings, model: HeLLM) -> list[str]:
    """Return the lines that a run logs before it trains."""
    lines = settings_table(settings)
    if settings.max_memory:
        lines.append(describe_choice(settings))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    shard_note = f" (in each of {mp_size()} processes)" if mp_size() > 1 else ""
    lines.append(f"trainable params: {trained:,} || all params: {total:,}{shard_note}")
    if dp_size() > 1:
        lines.append(f"{dp_size()} replicas share the {settings.batch_size * settings.grad_steps} samples of a step")
    return lines


def print_plan(settings: Settings) -> None:
    """Print sizes and costs, computed from the interaction file and the model's shape alone."""
    data = load_interactions(settings)
    init_processes(settings.model_parallel, settings.model_name)
    # The plan is for a GPU unless the settings say CPU, wherever it is printed.
    device = torch.device("cpu" if settings.device == "cpu" else "cuda")
    lines = []
    with announce("simulating the memory of training and scoring, and counting operations"):
        simulator = MemorySimulator(memory_profile(settings, data, table_widths(settings, data), device))
        if settings.max_memory:
            settings = fit_batch_sizes(settings, simulator)
            lines.append(describe_choice(settings))
        lines += plan_lines(settings, simulator, data)
    if is_main():
        print("\n".join(lines))


def plan_lines(settings: Settings, simulator: MemorySimulator, data: Interactions) -> list[str]:
    """Return the lines that `--plan` prints."""
    causal = settings.objective == "causal"
    samples = data.training_samples(settings.objective)
    n_samples = samples.n_targets()
    mean_length = round(samples.length.mean())
    lines = memory_lines(settings, simulator)
    with simulator.fake:
        flops = training_flops(simulator.model.train(), mean_length, settings.batch_size if causal else 1)

    batch_size = settings.batch_size * settings.grad_steps
    tokens = settings.tokens_per_batch * settings.grad_steps
    prompt_positions = prompt_positions_per_row(settings.objective, settings.prompt)
    n_steps = len(training_batches(samples.length, batch_size, 0, 0, tokens, prompt_positions))
    users = f" of {len(samples):,} users" if causal else ""
    micro_batch = f"{settings.tokens_per_batch} positions" if settings.tokens_per_batch else settings.batch_size
    return [
        *lines,
        f"users {data.n_users:,}  items {data.n_items:,}  interactions {data.n_interactions:,}",
        f"training samples {n_samples:,}{users}: {n_steps:,} steps per epoch of {micro_batch} x {settings.grad_steps}",
        f"{flops / 1e9:,.2f} GFLOP per training sample (history of {mean_length} items, forward and backward)",
        estimated_hours(flops, n_samples, settings.num_epochs),
    ]


def memory_lines(settings: Settings, simulator: MemorySimulator) -> list[str]:
    """Return the lines on parameters by part and on the peak memory of a batch of the longest histories."""
    parts = count_parameters(simulator.model)
    total = sum(n_all for n_all, _ in parts.values())
    trained = sum(n_trained for _, n_trained in parts.values())
    lines = [f"trainable params: {trained:,} || all params: {total:,}"]
    lines += [f"  {name:<18} {n:>15,} params, {t:,} trained" for name, (n, t) in parts.items()]

    rows = settings.batch_size
    if settings.tokens_per_batch:
        prompt_positions = prompt_positions_per_row(settings.objective, settings.prompt)
        rows = max(settings.tokens_per_batch // (simulator.profile.longest[0] + prompt_positions), 1)
    training = simulator.step_peak(rows * settings.grad_steps, rows)
    scoring = simulator.scoring_peak(settings.eval_batch_size)
    lines.append(
        f"estimated peak on the device: {max(training, scoring) / GIB:.2f} GiB (longest histories;\n"
        f"  training {training / GIB:.2f} GiB, scoring {settings.eval_batch_size} users {scoring / GIB:.2f} GiB)"
    )

    sizes = dict.fromkeys(parts, 0)
    for name, p in simulator.model.named_parameters():
        sizes[component_of(name)] += p.nbytes + ADAM_BYTES * p.numel() * p.requires_grad
    sizes["embeddings"] = sum(buffer.nbytes for buffer in simulator.model.buffers())
    sizes["a training step"] = training - sum(sizes.values())  # gradients and activations
    return lines + [f"  {name:<18} {size / GIB:>8.3f} GiB" for name, size in sizes.items()]


def estimated_hours(flops: float, n_samples: int, num_epochs: int) -> str:
    """Return the line on the hours of training at the published run's speed, with the formula.

    Args:
        flops: floating-point operations per sample.
        n_samples: training samples per epoch.
        num_epochs: epochs.
    """
    total = flops * n_samples * num_epochs
    return (
        f"{n_samples:,} samples x {num_epochs} epochs x {flops / 1e9:,.2f} GFLOP = {total / 1e15:,.2f} PFLOP:\n"
        f"  {total / PUBLISHED_FLOPS_PER_S / 3600:.2f} hours of training at the published run's "
        f"{PUBLISHED_FLOPS_PER_S / 1e12:.0f} TFLOP/s on a 24 GB card\n  (without validation)"
    )
