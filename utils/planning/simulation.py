"""Predict the memory of a run by simulating it on fake tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from config_HeLLM import Settings
from llama.checkpoint import assign_parameter
from llama.HeLLM import HeLLM, HeLLMArgs, ItemTables, materialize
from llama.parallel import clip_grad_norm, dp_size, init_model_parallel
from utils.data.batches import POSITIONS_PER_USER
from utils.data.interactions import Interactions
from utils.evaluation.target_ranks import ranks_with_and_without_seen
from utils.runtime.memory import LiveBytes
from utils.training.build import build_empty, matmul_dtype, model_args
from utils.training.prompt import PROMPT_LENGTHS


@dataclass(frozen=True)
class MemoryProfile:
    """The sizes and formats that determine the memory of a run, except its batch sizes."""

    args: HeLLMArgs
    n_items: int
    widths: tuple[int, int, int]  # of graph embeddings, sequence embeddings and features; 0: not read
    prompt: tuple[int, int]  # tokens before and after the items
    dtype: torch.dtype  # of matrix products, and of a base that is not trained
    longest: tuple[int, int, int]  # items of the longest history: in training, in scoring, filtered from a ranking
    clip: float  # maximum gradient norm; 0: gradients are not clipped


def memory_profile(
    settings: Settings, data: Interactions, widths: tuple[int, int, int], device: torch.device
) -> MemoryProfile:
    """Return the memory profile of a run with these settings on this device."""
    args = model_args(settings)
    test = data.test()
    lengths = data.training_samples(args.objective).length, test.length, data.n_seen(test)
    return MemoryProfile(
        args,
        data.n_items,
        widths,
        PROMPT_LENGTHS[settings.prompt],
        matmul_dtype(settings, device),
        tuple(int(length.max()) for length in lengths),
        settings.max_grad_norm,
    )


def _build(profile: MemoryProfile, make: Callable[[int, int], Tensor]) -> HeLLM:
    """Build the model of a profile, with tables that `make` makes of rows and columns."""
    n_rows = (profile.n_items, profile.n_items + 1, profile.n_items)  # row 0 of the sequence embeddings is padding
    tables = ItemTables(*map(make, n_rows, profile.widths))
    prompt = [[0] * n_tokens for n_tokens in profile.prompt]
    return build_empty(profile.args, tables, prompt, profile.dtype)


def random_model(profile: MemoryProfile, device: torch.device | str = "cpu") -> HeLLM:
    """Build the model of a profile with random weights and embeddings."""
    model = _build(profile, partial(torch.randn, device=device))
    materialize(model, device)
    return model.to(device)


class MemorySimulator:
    """Simulate a run on fake tensors and follow the bytes that are alive.

    Every allocation and release happens as in a real run, and nothing is computed. The model and optimizer are in
    the state between two steps: Adam's moments exist, gradients do not. Batches hold the longest histories only,
    so the prediction is an upper bound over the batches of a run.
    """

    def __init__(self, profile: MemoryProfile) -> None:
        init_model_parallel()
        self.profile = profile
        self.fake = FakeTensorMode()
        self.memory = LiveBytes()
        with self.fake, self.memory:
            self.model = _build(profile, torch.zeros)
            for name, p in [*self.model.named_parameters()]:
                assign_parameter(self.model, name, torch.empty_like(p, device="cpu"))
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, fused=True)
            for p in trained:
                p.grad = torch.zeros_like(p)
            self.optimizer.step()  # allocates Adam's moments
            self.optimizer.zero_grad()

    def training_peak(self, batch_size: int, passes: int) -> int:
        """Return the peak bytes of an optimizer step.

        Args:
            batch_size: samples (causal objective: users) per forward pass.
            passes: forward passes per optimizer step.
        """
        self.model.train()
        with self.fake, self.memory:
            self.memory.peak = self.memory.live
            items = torch.zeros(batch_size, self.profile.longest[0], dtype=torch.int64)
            mask = torch.ones_like(items, dtype=torch.bool)
            targets = items if self.profile.args.objective == "causal" else items[:, 0]
            for _ in range(min(passes, 2)):  # later passes need as much as the second: activations beside gradients
                self.model.loss(items, mask, targets, targets.numel()).backward()
            if self.profile.clip:
                clip_grad_norm(self.model, self.profile.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.memory.peak

    def step_peak(self, effective: int, batch_size: int) -> int:
        """Return the peak bytes of an optimizer step of `effective` samples, divided among the replicas."""
        share = -(-effective // dp_size())
        return self.training_peak(min(batch_size, share), -(-share // batch_size))

    def scoring_peak(self, users: int) -> int:
        """Return the peak bytes while batches of at most so many test users are scored and ranked.

        Of the batches that `scoring_batches` makes, either the most users or the longest histories need the most.
        """
        _, longest, n_seen = self.profile.longest
        n_longest = min(users, -(-users * POSITIONS_PER_USER // longest))
        short = min(longest, POSITIONS_PER_USER)  # so long are the histories of a full batch
        return max(self._scoring_peak(users, short, short), self._scoring_peak(n_longest, longest, n_seen))

    def _scoring_peak(self, users: int, n_read: int, n_seen: int) -> int:
        """Return the peak bytes of one batch: how many users, items of each that are read, and that are filtered."""
        self.model.eval()
        with self.fake, self.memory, torch.no_grad():
            self.memory.peak = self.memory.live
            items = torch.zeros(users, n_read, dtype=torch.int64)
            mask = torch.ones_like(items, dtype=torch.bool)
            seen = torch.zeros(2, users * n_seen, dtype=torch.int64)
            ranks_with_and_without_seen(self.model(items, mask), seen, items[:, 0])
        return self.memory.peak


def simulate(settings: Settings, data: Interactions, tables: ItemTables, device) -> MemorySimulator:
    """Return the simulator of a run on these data and tables."""
    widths = tuple(table.shape[1] for table in tables)
    return MemorySimulator(memory_profile(settings, data, widths, device))
