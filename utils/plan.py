"""Sizes and costs of a run before it: no weights, no tables, nothing allocated."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from llama.HeLLM import HeLLM
from llama.model import ModelArgs
from utils.data import Interactions

PUBLISHED_WIDTH = 64  # of both tables, assumed where they are not there to be read
# The published run on a 24 GB card: 0.23 s a step of 7 samples of 92 positions (SPEC.md section 6), each
# 2.35 TFLOP by this module's count at LLaMA-2-7B; that is 71 TFLOP/s.
PUBLISHED_FLOPS_PER_S = 7 * 2.35e12 / 0.23
GIB = 2**30


def count_parts(model: HeLLM) -> dict[str, tuple[int, int]]:
    """Parameters by part: name to (all, trained)."""
    parts = {}
    for name, p in model.named_parameters():
        part = "LoRA" if ".lora." in name else name.split(".")[0].replace("llama", "base without head")
        part = "prefix" if ".prefix_" in name else part
        total, trained = parts.get(part, (0, 0))
        parts[part] = (total + p.numel(), trained + p.numel() * p.requires_grad)
    return parts


def training_cost(model: HeLLM, length: int, batch_size: int) -> tuple[float, int]:
    """Floating-point operations a sample, and bytes kept for the backward pass of a batch.

    Both are counted on a pass over tensors without content, at histories of `length` items; under the causal
    objective `batch_size` counts users and each of their items is a sample.
    """
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            saved[storage._cdata] = storage.nbytes()
        return tensor

    items = torch.zeros(batch_size, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            targets = items if model.args.objective == "causal" else items[:, 0]
            loss = model.loss(items, None, targets)
        loss.backward()
    return counter.get_total_flops() / targets.numel(), sum(saved.values())


def describe(
    args: ModelArgs,
    data: Interactions,
    widths: tuple[int, int],
    prompt_lengths: tuple[int, int],
    batch_size: int,
    grad_steps: int,
    num_epochs: int,
    dtype: torch.dtype,
) -> str:
    """The text that `--plan` prints.

    Args:
        args, data: of the run.
        widths: of the graph and sequence tables.
        prompt_lengths: tokens before and after the items.
        batch_size, grad_steps: samples (causal: users) a forward pass, forward passes an optimiser step.
        num_epochs: of the run, at most.
        dtype: of matrix products, and of a base that is not trained.
    """
    causal, n_samples = args.objective == "causal", len(data.train())
    samples = data.train_users() if causal else data.train()
    mean, longest = round(samples.length.mean()), int(samples.length.max())
    with FakeTensorMode():
        tables = [torch.zeros(data.n_items + extra, width) for extra, width in zip((0, 1), widths, strict=True)]
        model = HeLLM(args, *tables, *([0] * n for n in prompt_lengths), dtype=dtype)
        parts = count_parts(model)
        flops, _ = training_cost(model, mean, batch_size if causal else 1)
        _, kept = training_cost(model, longest, batch_size)
    total, trained = (sum(part[i] for part in parts.values()) for i in (0, 1))
    base_size = 4 if args.train_base else dtype.itemsize
    bytes_by_part = {
        name: n * (base_size if name == "base without head" else 4) + trained_n * 12  # gradient, two Adam moments
        for name, (n, trained_n) in parts.items()
    }
    bytes_by_part["tables"] = sum(t.numel() * 4 for t in tables)
    bytes_by_part["kept for backward"] = kept
    lines = [f"trainable params: {trained:,} || all params: {total:,}"]
    lines += [f"  {name:<18} {n:>15,} params, {t:,} trained" for name, (n, t) in parts.items()]
    lines.append(
        f"estimated peak on the device: {sum(bytes_by_part.values()) / GIB:.2f} GiB (training, longest histories)"
    )
    lines += [f"  {name:<18} {size / GIB:>8.3f} GiB" for name, size in bytes_by_part.items()]
    size = batch_size * grad_steps
    lines.append(f"users {data.n_users:,}  items {data.n_items:,}  interactions {data.n_interactions:,}")
    users = f" of {len(samples):,} users" if causal else ""
    steps = max(len(samples) // size, 1)
    lines.append(f"training samples {n_samples:,}{users}: {steps:,} steps an epoch of {batch_size} x {grad_steps}")
    lines.append(f"{flops / 1e9:,.2f} GFLOP a training sample (history of {mean} items, forward and backward)")
    return "\n".join([*lines, hours(flops, n_samples, num_epochs)])


def hours(flops: float, n_samples: int, num_epochs: int) -> str:
    """How long training takes at the published run's utilisation, with the formula; `flops` a sample."""
    total = flops * n_samples * num_epochs
    return (
        f"{n_samples:,} samples x {num_epochs} epochs x {flops / 1e9:,.2f} GFLOP = {total / 1e15:,.2f} PFLOP: "
        f"{total / PUBLISHED_FLOPS_PER_S / 3600:.2f} hours of training at the published run's "
        f"{PUBLISHED_FLOPS_PER_S / 1e12:.0f} TFLOP/s on a 24 GB card (validation not counted)"
    )
