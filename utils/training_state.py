"""A complete training state: what is trained, the optimiser, every random generator, the place in the run."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from llama.checkpoint import compare_names, save_atomically
from llama.parallel import mp_rank, mp_size
from llama.weight_files import load_file
from utils.seed import rng_state, set_rng_state

FORMAT, VERSION = "HeLLM training state", 1
BEST_ADAPTER = "best_adapter.pt"  # beside the state


@dataclass
class Progress:
    """Where a run stands. Epochs count from 0; a state between them has `step` optimiser steps of `epoch` done."""

    epoch: int = 0
    step: int = 0
    samples: int = 0  # trained on in this epoch
    loss_sum: float = 0.0  # over the steps of this epoch, nats
    seconds: float = 0.0  # of training in this epoch
    best_epoch: int = -1
    best_score: float = -1.0  # the validation metric that chooses
    records: list[dict] = field(default_factory=list)  # of the metrics file

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.step, self.samples, self.loss_sum, self.seconds = self.epoch + 1, 0, 0, 0.0, 0.0


def run_folder(output_dir: str | Path, dataset: str, GNNModel: str, target: str) -> Path:
    """Where a run keeps its adapter and state."""
    return Path(output_dir) / dataset / GNNModel / target


def state_path(folder: str | Path) -> Path:
    """The state file of this process: one a process where several share the model."""
    name = "training_state.pt" if mp_size() == 1 else f"training_state.{mp_rank()}of{mp_size()}.pt"
    return Path(folder) / name


def save_state(
    path: str | Path,
    tensors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict,
) -> None:
    """Write the state atomically: `tensors` is what is trained, `settings` what a resumed run must agree with."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "progress": asdict(progress),
        "tensors": {name: tensor.detach() for name, tensor in tensors.items()},
        "optimizer": optimizer.state_dict(),
        "rng": rng_state(),
    }
    save_atomically(content, path)


def load_state(
    path: str | Path, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, settings: dict
) -> Progress:
    """Read back what `save_state` wrote, into tensors, optimiser and random generators.

    Raises:
        FileNotFoundError: nothing saved yet.
        ValueError: another format or version, settings that differ (named), tensors that do not fit.
    """
    path = Path(path)
    content = load_file(path)
    kind = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if kind != (FORMAT, VERSION):
        raise ValueError(f"{path}: not a {FORMAT} of version {VERSION}, found {kind}")
    theirs = content["settings"]
    differ = [
        f"{name} was {theirs.get(name)}, is now {settings.get(name)}"
        for name in sorted(set(settings) | set(theirs))
        if settings.get(name) != theirs.get(name)
    ]
    if differ:
        raise ValueError(
            f"{path}: saved under other settings: {'; '.join(differ)}; use the same ones or another --target"
        )
    saved = content["tensors"]
    shapes = {name: (saved[name].shape, tensor.shape) for name, tensor in tensors.items() if name in saved}
    compare_names(str(path), set(saved), set(tensors), shapes)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
    optimizer.load_state_dict(content["optimizer"])
    set_rng_state(content["rng"])
    return Progress(**{f.name: content["progress"][f.name] for f in fields(Progress)})
