"""Cost of a training step, counted and measured: the part `train` of utils.benchmark."""

import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor

from config_HeLLM import Settings, parse_args
from utils.data.batches import scoring_batches, split_microbatches, training_batches
from utils.data.interactions import Samples
from utils.planning.flops import FlopsByPart
from utils.planning.plan import PUBLISHED_WIDTH
from utils.planning.simulation import memory_profile, random_model
from utils.runtime.distributed import resolve_device, to_device
from utils.runtime.memory import peak_memory
from utils.runtime.seed import seed_everything
from utils.training.build import load_interactions
from utils.training.prompt import prompt_positions_per_row

COUNTED, STEPS, ROUNDS = 20, 10, 3  # batches whose operations are counted, that are timed in a round; rounds
SCORED = 100  # of so many scoring batches one is counted
VERSUS = "--vs"  # between the flags of two settings that are measured in turn
SIDE = 2048  # of the matrices whose product tells the device's peak


def train(argv: list[str]) -> None:
    """Print GFLOP a sample over random batches of the real training data, samples/s, share of peak and memory.

    Weights and tables are random, so that only the interaction file is needed. With `--vs` and more flags, two
    settings are measured in turn.
    """
    of_each = [argv[: argv.index(VERSUS)], argv[argv.index(VERSUS) + 1 :]] if VERSUS in argv else [argv]
    training = [Training(parse_args(flags)) for flags in of_each]
    for one in training:
        one.count()
    speeds = [[one.samples_per_s() for one in training] for _ in range(ROUNDS)]
    for number, one in enumerate(training):
        one.report(statistics.median(round_[number] for round_ in speeds))
    if len(training) == 2:
        ratios = [second / first for first, second in speeds]
        print(f"samples/s, second to first: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"peak memory {peak_memory(training[0].device) / 1e9:.2f} GB")


class Training:
    """Steps of one setting on random weights."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = replace(settings, plan=True), resolve_device(settings.device)  # no weights needed
        self.data = load_interactions(settings)
        self.profile = memory_profile(self.settings, self.data, (PUBLISHED_WIDTH, PUBLISHED_WIDTH), self.device)
        self.samples = self.data.training(settings.objective)
        seed_everything(settings.seed)
        self.model = random_model(self.profile, self.device).train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], fused=True)
        size, tokens = (n * settings.grad_steps for n in (settings.batch_size, settings.tokens_per_batch))
        self.constant = prompt_positions_per_row(settings.objective, settings.prompt)
        self.batches = training_batches(self.samples.length, size, settings.seed, 0, tokens, self.constant)
        self.parts, self.at = {}, 0

    def count(self) -> None:
        """Operations a sample by part, which warms up as well."""
        with FlopsByPart(self.model) as counter:
            done = sum(map(self.step, self.batches[:COUNTED]))
        self.parts = {part: flops / done for part, flops in counter.parts().items()}

    def step(self, rows) -> int:
        """One optimiser step; returns its number of samples."""
        s, n_targets = self.settings, self.samples.n_targets(rows)
        for part in split_microbatches(rows, self.samples.length, s.batch_size, s.tokens_per_batch, self.constant):
            n = self.samples.n_targets(part)
            loss = self.model.loss(*self.batch(self.samples, part), n) * (n / n_targets)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return n_targets

    def batch(self, samples: Samples, rows) -> list[Tensor | None]:
        """Items, mask and targets on the device."""
        return [t if t is None else to_device(t, self.device) for t in self.data.batch(samples, rows)]

    def samples_per_s(self) -> float:
        """Of the next batches; the last of an epoch are followed by its first."""
        rows = [self.batches[(self.at + i) % len(self.batches)] for i in range(STEPS)]
        self.at += STEPS
        synchronize(self.device)
        started = time.perf_counter()
        done = sum(map(self.step, rows))
        synchronize(self.device)
        return done / (time.perf_counter() - started)

    def report(self, speed: float) -> None:
        s, total = self.settings, self.samples.n_targets()
        size = f"{s.tokens_per_batch} positions" if s.tokens_per_batch else f"{s.batch_size} rows"
        print(f"{s.model_name}, {s.objective}, {size} a batch, {torch.get_num_threads()} threads, {self.device}")
        flops = sum(self.parts.values())
        share = flops * speed / peak_flops(self.device, self.profile.dtype)
        print(f"  {flops / 1e9:.3f} GFLOP per training sample; {share:.0%} of the device's matrix products")
        print(f"  {speed:,.1f} samples/s, {total / speed:,.1f} s an epoch of {total:,} samples")
        for part, flops_of_part in self.parts.items():
            print(f"  {flops_of_part / 1e9:>8.3f} GFLOP {flops_of_part / flops:>6.1%}  {part}")
        self.report_scoring()

    @torch.no_grad()
    def report_scoring(self) -> None:
        """Print operations a user, and how they compare with all positions going through all layers."""
        llama, samples, counts = self.model.eval().llama, self.data.test(), []
        batches = list(scoring_batches(samples.length, self.settings.eval_batch_size))[::SCORED]
        for _ in range(2):
            with FlopsByPart(self.model) as counter:
                for rows in batches:
                    self.model(*self.batch(samples, rows)[:2])
            counts.append(sum(counter.parts().values()) / sum(map(len, batches)))
            llama.register_forward_pre_hook(lambda _, args, more: (args, more | {"last_only": False}), with_kwargs=True)
            llama.register_forward_hook(lambda _, args, output: output[:, -1:])
        note = f", {counts[0] / counts[1]:.3f} of all positions through all layers" * (counts[0] != counts[1])
        print(f"  {counts[0] / 1e9:.3f} GFLOP a scored user{note}")


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of a few."""
    a, best = torch.randn(SIDE, SIDE, device=device, dtype=dtype), 0.0
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for what is queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
