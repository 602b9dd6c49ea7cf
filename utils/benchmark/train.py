"""Count and time training steps: `python -m utils.benchmark train`."""

import statistics
import time
from dataclasses import replace

import torch

from config_HeLLM import Settings, parse_args
from utils.data.batches import Batch, collate, scoring_batches
from utils.data.interactions import Samples
from utils.planning.flops import FlopsByPart
from utils.planning.plan import assumed_widths
from utils.planning.simulation import memory_profile, random_model
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import peak_memory
from utils.runtime.seed import seed_everything
from utils.training.build import load_interactions
from utils.training.sample_batches import ReplicaBatches

COUNTED_STEPS = 20  # optimizer steps whose operations are counted
TIMED_STEPS = 10  # optimizer steps per round
ROUNDS = 3  # timed rounds; the median is reported
SCORING_STRIDE = 100  # operations are counted for every 100th scoring batch
VERSUS = "--vs"  # separates the flags of two settings that are measured in turn
PEAK_MATRIX_SIZE = 2048  # rows and columns of the product whose speed counts as the device's peak


def train(argv: list[str]) -> None:
    """Print GFLOP per sample over random batches of the training data, samples/s, share of peak and memory.

    Weights and embeddings are random, so only the interaction file is needed. With `--vs` and more flags, two
    settings are measured in turn.
    """
    command_lines = [argv]
    if VERSUS in argv:
        separator = argv.index(VERSUS)
        command_lines = [argv[:separator], argv[separator + 1 :]]
    benchmarks = [TrainingBenchmark(parse_args(flags)) for flags in command_lines]
    for benchmark in benchmarks:
        benchmark.count_flops()
    rounds = [[benchmark.samples_per_s() for benchmark in benchmarks] for _ in range(ROUNDS)]
    for benchmark, speeds in zip(benchmarks, zip(*rounds, strict=True), strict=True):
        benchmark.report(statistics.median(speeds))
    if len(benchmarks) == 2:
        ratios = [second / first for first, second in rounds]
        print(f"samples/s, second to first: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"peak memory {peak_memory(benchmarks[0].device) / 1e9:.2f} GB")


class TrainingBenchmark:
    """Training steps of one setting, on random weights and embeddings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = replace(settings, plan=True)  # a built-in size may then be frozen without weights
        self.device = resolve_device(settings.device)
        self.data = load_interactions(settings)
        self.profile = memory_profile(self.settings, self.data, assumed_widths(settings), self.device)
        seed_everything(settings.seed)
        self.model = random_model(self.profile, self.device).train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], fused=True)
        self.replica_batches = ReplicaBatches(settings, self.data)
        self.samples = self.replica_batches.samples
        self.batches = self.replica_batches.epoch(0)
        self.flops_by_part = {}
        self.next_batch = 0

    def count_flops(self) -> None:
        """Count the operations per sample by part; warms up as well."""
        with FlopsByPart(self.model) as counter:
            n_samples = sum(map(self.step, self.batches[:COUNTED_STEPS]))
        self.flops_by_part = {part: flops / n_samples for part, flops in counter.parts().items()}

    def step(self, sample_idx) -> int:
        """Take one optimizer step and return its number of samples."""
        microbatches = self.replica_batches.microbatches(sample_idx, 0, self.model.padding, self.device)
        for micro_batch, n_targets, weight in microbatches:
            loss = self.model.loss(micro_batch.items, micro_batch.mask, micro_batch.targets, n_targets) * weight
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.replica_batches.n_samples(sample_idx)

    def batch(self, samples: Samples, sample_idx) -> Batch:
        """Return some samples on the device."""
        return collate(self.data, samples, sample_idx, self.model.padding).to(self.device)

    def samples_per_s(self) -> float:
        """Time the next batches; after the last batch of an epoch comes its first."""
        timed = [self.batches[(self.next_batch + i) % len(self.batches)] for i in range(TIMED_STEPS)]
        self.next_batch += TIMED_STEPS
        synchronize(self.device)
        started = time.perf_counter()
        n_samples = sum(map(self.step, timed))
        synchronize(self.device)
        return n_samples / (time.perf_counter() - started)

    def report(self, speed: float) -> None:
        """Print costs and speed of training, and the cost of scoring.

        Args:
            speed: samples per second.
        """
        s = self.settings
        n_samples = self.samples.n_targets()
        size = f"{s.tokens_per_batch} positions" if s.tokens_per_batch else f"{s.batch_size} rows"
        print(f"{s.model_name}, {s.objective}, {size} per batch, {torch.get_num_threads()} threads, {self.device}")
        flops = sum(self.flops_by_part.values())
        share = flops * speed / peak_flops(self.device, self.profile.dtype)
        print(f"  {flops / 1e9:.3f} GFLOP per training sample; {share:.0%} of the device's matrix products")
        print(f"  {speed:,.1f} samples/s, {n_samples / speed:,.1f} s per epoch of {n_samples:,} samples")
        for part, flops_of_part in self.flops_by_part.items():
            print(f"  {flops_of_part / 1e9:>8.3f} GFLOP {flops_of_part / flops:>6.1%}  {part}")
        self.report_scoring()

    @torch.no_grad()
    def report_scoring(self) -> None:
        """Print the operations per scored user, and their share of all positions through all layers."""
        samples = self.data.test()
        batches = list(scoring_batches(samples.length, self.settings.eval_batch_size))[::SCORING_STRIDE]
        n_users = sum(map(len, batches))
        llama = self.model.eval().llama

        def flops_per_user() -> float:
            with FlopsByPart(self.model) as counter:
                for sample_idx in batches:
                    self.model(*self.batch(samples, sample_idx)[:2])
            return sum(counter.parts().values()) / n_users

        flops = flops_per_user()
        # From here on LLaMA computes every position of its last layer, of which the newest is used.
        llama.register_forward_pre_hook(lambda _, args, more: (args, more | {"last_only": False}), with_kwargs=True)
        llama.register_forward_hook(lambda _, args, output: output[:, -1:])
        flops_of_all = flops_per_user()
        note = f", {flops / flops_of_all:.3f} of all positions through all layers" if flops != flops_of_all else ""
        print(f"  {flops / 1e9:.3f} GFLOP per scored user{note}")


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of one large matrix product, the best of five."""
    a = torch.randn(PEAK_MATRIX_SIZE, PEAK_MATRIX_SIZE, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        best = max(best, 2 * PEAK_MATRIX_SIZE**3 / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for everything queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
