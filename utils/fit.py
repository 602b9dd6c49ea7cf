"""How much memory a run will need, and batch sizes that fit into the memory there is."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from config_HeLLM import Settings
from llama.checkpoint import assign
from llama.HeLLM import HeLLM, fill
from llama.model import ModelArgs
from llama.parallel import clip_gradients, dp_size, ensure_model_parallel
from utils.build import empty_model, model_args, number_format
from utils.data import Interactions
from utils.evaluate import rank_scores
from utils.memory import GIB, LiveBytes, device_memory, parse_bytes
from utils.prompter import LENGTHS


@dataclass(frozen=True)
class Job:
    """All that decides how much memory a run needs, but its batch sizes."""

    args: ModelArgs
    n_items: int
    widths: tuple[int, int]  # of the graph and sequence tables
    prompt: tuple[int, int]  # tokens before and after the items
    dtype: torch.dtype  # of matrix products, and of a base that is not trained
    longest: tuple[int, int, int]  # items of the longest history: trained on, scored, left out of a ranking
    clip: float  # norm to which gradients are clipped; 0: none


def job_of(settings: Settings, data: Interactions, widths: tuple[int, int], device: torch.device) -> Job:
    """What a run with these settings on this device is."""
    args = model_args(settings)
    samples = data.training(args.objective), data.test(), data.whole(data.test())
    return Job(
        args,
        data.n_items,
        widths,
        LENGTHS[settings.prompt],
        number_format(settings, device),
        tuple(int(some.length.max()) for some in samples),
        settings.max_grad_norm,
    )


def random_model(job: Job, device: torch.device | str = "cpu") -> HeLLM:
    """The model of a run with random weights and tables."""
    sizes = zip((0, 1), job.widths, strict=True)
    tables = [torch.randn(job.n_items + extra, width, device=device) for extra, width in sizes]
    model = empty_model(job.args, tables, [[0] * n for n in job.prompt], job.dtype)
    fill(model, device)
    return model.to(device)


class Simulation:
    """A run on tensors without content: every allocation and release as in a real one, and nothing computed.

    Its model and optimiser are in the steady state, with Adam's moments and without gradients. Batches are of the
    longest histories alone, so what it says is on the safe side.
    """

    def __init__(self, job: Job) -> None:
        ensure_model_parallel()
        self.job, self.causal = job, job.args.objective == "causal"
        self.fake, self.memory = FakeTensorMode(), LiveBytes()
        with self.fake, self.memory:
            tables = [torch.zeros(job.n_items + extra, width) for extra, width in zip((0, 1), job.widths, strict=True)]
            self.model = empty_model(job.args, tables, [[0] * n for n in job.prompt], job.dtype)
            for name, p in [*self.model.named_parameters()]:
                assign(self.model, name, torch.empty_like(p, device="cpu"))
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
                clip_gradients(self.model, self.job.clip)
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
            rank_scores(self.model.scores(items, mask, 1 + self.causal), seen, not_padding, items[:, 0])
        return self.memory.peak


def simulate(settings: Settings, data: Interactions, tables: tuple[Tensor, Tensor], device) -> Simulation:
    """The simulation of a run on these tables."""
    return Simulation(job_of(settings, data, tuple(table.shape[1] for table in tables), device))


def divisors(number: int) -> list[int]:
    """Descending."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def largest_that_fits(sizes: Sequence[int], peak: Callable[[int], int], limit: int) -> int:
    """The first of some descending sizes whose peak, which grows with the size, is within the limit; 0: none is."""
    if sizes and peak(sizes[0]) <= limit:  # the likely case
        return sizes[0]
    at = bisect_left(sizes, True, key=lambda size: peak(size) <= limit)
    return sizes[at] if at < len(sizes) else 0


def fitted(settings: Settings, simulation: Simulation) -> Settings:
    """Settings with the largest batch sizes that --max_memory allows, the samples of an optimiser step unchanged.

    Raises:
        ValueError: not even one sample, or one user to score, fits; names the predicted need.
    """
    limit = parse_bytes(settings.max_memory)
    effective = settings.batch_size * settings.grad_steps
    size = largest_that_fits(divisors(effective), partial(simulation.step_peak, effective), limit)
    users = largest_that_fits(range(settings.eval_batch_size, 0, -1), simulation.scoring_peak, limit)
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


def announce(settings: Settings) -> str:
    """What was chosen for --max_memory."""
    sizes = f"--batch_size {settings.batch_size} --grad_steps {settings.grad_steps}"
    return f"--max_memory {settings.max_memory}: {sizes} --eval_batch_size {settings.eval_batch_size}"


def what_would_fit(settings: Settings, data: Interactions, model: HeLLM, device: torch.device) -> str:
    """The setting to go on with after memory ran out, in training or in scoring, whichever the model is at.

    At most half the batch, and predicted to need no more than the device has.
    """
    simulation = simulate(settings, data, (model.graph_item_embedding, model.seq_item_embedding), device)
    training, limit = model.training, device_memory(device)
    effective = settings.batch_size * settings.grad_steps
    if training:
        peak, flag = partial(simulation.step_peak, effective), "--batch_size"
        sizes = [size for size in divisors(effective) if size <= settings.batch_size // 2]
    else:
        peak, flag = simulation.scoring_peak, "--eval_batch_size"
        sizes = range(settings.eval_batch_size // 2, 0, -1)
    size = largest_that_fits(sizes, peak, limit)
    if not size:
        return f"{flag} 1 is predicted to need {peak(1) / GIB:.3f} GiB: take more memory, or a shorter --max_len"
    passes = f" --grad_steps {effective // size}" if training else ""
    return f"{flag} {size}{passes} is predicted to fit, in {peak(size) / GIB:.3f} GiB"
