"""Cost of a training step, counted and measured: the part `train` of utils.benchmark."""

import resource
import time
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from config_HeLLM import Settings, parse_args
from llama.HeLLM import HeLLM
from llama.model import SIZES
from utils.build import model_args, number_format
from utils.data import Interactions, check_files, required_files, training_batches
from utils.distributed import pick_device
from utils.plan import PUBLISHED_WIDTH
from utils.prompter import LENGTHS
from utils.seed import seed_everything

COUNTED, WARM_UP, STEPS = 20, 2, 20  # batches


def train(argv: list[str]) -> None:
    """Print GFLOP a sample over random batches of the real training data, samples/s and peak memory.

    Weights and tables are random, so that only the interaction file is needed.
    """
    settings = parse_args(argv)
    device, causal = pick_device(settings.device), settings.objective == "causal"
    name = required_files(settings.dataset, settings.GNNModel)[0]
    data = Interactions(check_files(settings.data_dir, settings.dataset, [name]) / name, settings.max_len)
    samples = data.train_users() if causal else data.train()
    seed_everything(settings.seed)
    model = _random_model(settings, data.n_items, device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batches = training_batches(samples.length, settings.batch_size, settings.seed, 0)

    def step(rows) -> int:
        batch = data.batch(samples, rows, every=causal)
        model.loss(*(t if t is None else t.to(device) for t in batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        return int(samples.length[rows].sum()) if causal else len(rows)

    with FlopCounterMode(display=False) as counter:
        counted = sum(step(rows) for rows in batches[:COUNTED])
    for rows in batches[:WARM_UP]:
        step(rows)
    started = time.perf_counter()
    done = sum(step(rows) for rows in batches[WARM_UP : WARM_UP + STEPS])
    if device.type == "cuda":
        torch.cuda.synchronize()
    speed, total = done / (time.perf_counter() - started), int(samples.length.sum()) if causal else len(samples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(f"{settings.objective}, {settings.batch_size} a batch, {torch.get_num_threads()} threads, {device}")
    print(f"{counter.get_total_flops() / counted / 1e9:.3f} GFLOP a training sample")
    print(f"{speed:,.1f} samples/s, {total / speed:,.1f} s an epoch of {total:,} samples")
    print(f"peak memory {peak / 1e9:.2f} GB")


def _random_model(settings: Settings, n_items: int, device: torch.device) -> HeLLM:
    if settings.model_name not in SIZES:
        raise ValueError(f"--model_name {settings.model_name}: a built-in size, {', '.join(SIZES)}")
    tables = [torch.randn(n_items + extra, PUBLISHED_WIDTH, device=device) for extra in (0, 1)]
    prompt = ([0] * n for n in LENGTHS[settings.prompt])
    with device:  # plan: a built-in size may be frozen
        return HeLLM(model_args(replace(settings, plan=True)), *tables, *prompt, number_format(settings, device))
