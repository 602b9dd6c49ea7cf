"""How much memory a run will need, and batch sizes that fit into the memory there is."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from config_HeLLM import Settings
from llama.checkpoint import assign_parameter
from llama.HeLLM import HeLLM, HeLLMArgs, materialize
from llama.parallel import clip_grad_norm, dp_size, init_model_parallel
from utils.data.interactions import Interactions
from utils.evaluation.ranking import ranks_with_and_without_seen
from utils.runtime.memory import LiveBytes
from utils.training.build import build_empty, matmul_dtype, model_args
from utils.training.prompt import PROMPT_LENGTHS


@dataclass(frozen=True)
class MemoryProfile:
    """All that decides how much memory a run needs, but its batch sizes."""

    args: HeLLMArgs
    n_items: int
    widths: tuple[int, int]  # of the graph and sequence tables
    prompt: tuple[int, int]  # tokens before and after the items
    dtype: torch.dtype  # of matrix products, and of a base that is not trained
    longest: tuple[int, int, int]  # items of the longest history: trained on, scored, left out of a ranking
    clip: float  # norm to which gradients are clipped; 0: none


def memory_profile(
    settings: Settings, data: Interactions, widths: tuple[int, int], device: torch.device
) -> MemoryProfile:
    """What a run with these settings on this device is."""
    args = model_args(settings)
    samples = data.training(args.objective), data.test(), data.whole(data.test())
    return MemoryProfile(
        args,
        data.n_items,
        widths,
        PROMPT_LENGTHS[settings.prompt],
        matmul_dtype(settings, device),
        tuple(int(some.length.max()) for some in samples),
        settings.max_grad_norm,
    )


def random_model(job: MemoryProfile, device: torch.device | str = "cpu") -> HeLLM:
    """The model of a run with random weights and tables."""
    sizes = zip((0, 1), job.widths, strict=True)
    tables = [torch.randn(job.n_items + extra, width, device=device) for extra, width in sizes]
    model = build_empty(job.args, tables, [[0] * n for n in job.prompt], job.dtype)
    materialize(model, device)
    return model.to(device)


class MemorySimulator:
    """A run on tensors without content: every allocation and release as in a real one, and nothing computed.

    Its model and optimiser are in the steady state, with Adam's moments and without gradients. Batches are of the
    longest histories alone, so what it says is on the safe side.
    """

    def __init__(self, job: MemoryProfile) -> None:
        init_model_parallel()
        self.job, self.causal = job, job.args.objective == "causal"
        self.fake, self.memory = FakeTensorMode(), LiveBytes()
        with self.fake, self.memory:
            tables = [torch.zeros(job.n_items + extra, width) for extra, width in zip((0, 1), job.widths, strict=True)]
            self.model = build_empty(job.args, tables, [[0] * n for n in job.prompt], job.dtype)
            for name, p in [*self.model.named_parameters()]:
                assign_parameter(self.model, name, torch.empty_like(p, device="cpu"))
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = torch.optim.AdamW(trained, fused=True)
            for p in trained:
                p.grad = torch.zeros_like(p)
            self.optimizer.step()  # makes the moments
            self.optimizer.zero_grad()

    def training_peak(self, batch_size: int, passes: int) -> int:
        """Most bytes alive during an optimiser step of `passes` forward passes of `batch_size` samples or users."""
        self.model.train()
        with self.fake, self.memory:
            self.memory.peak = self.memory.live
            items = torch.zeros(batch_size, self.job.longest[0], dtype=torch.int64)
            mask, targets = torch.ones_like(items, dtype=torch.bool), items if self.causal else items[:, 0]
            for _ in range(min(passes, 2)):  # from the second on there are gradients beside the activations
                self.model.loss(items, mask, targets, targets.numel()).backward()
            if self.job.clip:
                clip_grad_norm(self.model, self.job.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.memory.peak

    def step_peak(self, effective: int, batch_size: int) -> int:
        """The same of a step of `effective` samples or users, of which every replica takes its share."""
        share = -(-effective // dp_size())
        return self.training_peak(min(batch_size, share), -(-share // batch_size))

    def scoring_peak(self, users: int) -> int:
        """Most bytes alive while `users` users are scored and their targets ranked, as in the test."""
        self.model.eval()
        with self.fake, self.memory, torch.no_grad():
            self.memory.peak = self.memory.live
            items, seen = (torch.zeros(users, length, dtype=torch.int64) for length in self.job.longest[1:])
            mask, not_padding = (torch.ones_like(some, dtype=torch.bool) for some in (items, seen))
            ranks_with_and_without_seen(self.model(items, mask), seen, not_padding, items[:, 0])
        return self.memory.peak


def simulate(settings: Settings, data: Interactions, tables: tuple[Tensor, Tensor], device) -> MemorySimulator:
    """The simulation of a run on these tables."""
    return MemorySimulator(memory_profile(settings, data, tuple(table.shape[1] for table in tables), device))
