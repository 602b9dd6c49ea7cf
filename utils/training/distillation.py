"""Distillation: finished runs whose scores become part of a new run's targets (arXiv 1503.02531)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from config_HeLLM import Settings
from llama.cross_entropy import SoftTargets
from llama.HeLLM import HeLLM
from utils.io.checksums import file_crc32
from utils.training.committee import is_committee, load_committee, read_committee
from utils.training.saved_run import SavedRun, read_run


@dataclass(frozen=True)
class Teacher:
    """Models that score the positions which a run learns from.

    Their weighted mean log-softmax is the teacher's score; where there are several, it is the score of a committee.
    """

    models: list[HeLLM]  # in evaluation mode, on the run's device
    weights: list[float]  # of the models, of sum 1
    share: float  # of the teacher's probabilities in the targets
    checksums: dict[str, str]  # of the models' adapters, for the run's checkpoint

    @torch.no_grad()
    def __call__(
        self, items: Tensor, mask: Tensor | None, targets: Tensor, n_targets: int | None = None
    ) -> SoftTargets:
        """Score a batch; arguments as in `HeLLM.target_scores`.

        A sum of logits is one product of all models' vectors side by side. It differs from the sum of log-softmax by
        a constant per row, which the softmax of the targets removes.
        """
        hidden = []
        weight = []
        for model, model_weight in zip(self.models, self.weights, strict=True):
            rows, columns, _ = model.target_scores(items, mask, targets, n_targets)
            hidden.append(rows * model_weight)
            weight.append(columns)
        return SoftTargets(torch.cat(hidden, 1), torch.cat(weight, 1), self.share)


def load_teacher(settings: Settings, device: torch.device) -> Teacher | None:
    """Load the teacher of a run, or None where --teacher names none.

    Raises:
        FileNotFoundError: a file of the teacher is missing; names it.
        ValueError: the teacher is damaged, was trained on other files, or scores in another way; names it.
    """
    if not settings.teacher:
        return None
    folder = Path(settings.teacher)
    if is_committee(folder):
        runs, weights = read_committee(folder, settings.data_dir)
    else:
        runs = [read_run(folder, settings.data_dir)]
        weights = [1.0]
    for run in runs:
        require_same_positions(run, settings)
    _, committee = load_committee(runs, weights, device)
    checksums = {f"CRC-32 of teacher {number}": file_crc32(run.adapter) for number, run in enumerate(runs)}
    shares = [weight / sum(weights) for weight in weights]
    return Teacher(list(committee.models), shares, settings.teacher_share, checksums)


def require_same_positions(run: SavedRun, settings: Settings) -> None:
    """Check that a run can score what another one learns from.

    Raises:
        ValueError: naming the first setting that forbids it.
    """
    theirs = run.settings
    problem = ""
    if theirs.dataset != settings.dataset:
        problem = f"trained on {theirs.dataset}, but this run is on {settings.dataset}"
    elif theirs.objective != settings.objective:
        problem = f"trained by --objective {theirs.objective}, but this run by --objective {settings.objective}"
    elif theirs.max_len < settings.max_len:
        problem = f"trained with --max_len {theirs.max_len}, but this run with --max_len {settings.max_len}"
    if problem:
        raise ValueError(f"--teacher {run.folder}: {problem}; take a teacher trained with the same")
