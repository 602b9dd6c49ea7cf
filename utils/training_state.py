"""A complete training state: what is trained, the optimiser, every random generator, the place in the run."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from llama.checkpoint import compare_names, save_atomically
from llama.parallel import gather_parts, local_part
from llama.weight_files import load_file
from utils.distributed import is_main
from utils.seed import rng_state, set_rng_state

FORMAT, VERSION = "HeLLM training state", 1
STATE, BEST_ADAPTER = "training_state.pt", "best_adapter.pt"  # in the run's folder


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


def save_state(
    path: str | Path,
    tensors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict,
    dims: dict[str, int | None] | None = None,
) -> None:
    """Write the state atomically, whole tensors whatever the number of processes.

    Args:
        tensors: what is trained; settings: what a resumed run must agree with.
        dims: along which dimension a tensor is split over the processes that share the model, all of which must call.
    """
    dims = dims or {}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "progress": asdict(progress),
        "tensors": {name: _whole(tensor.detach(), dims.get(name)) for name, tensor in tensors.items()},
        "optimizer": _each_slot(optimizer.state_dict(), _whole, _split_of(optimizer, tensors, dims)),
        "rng": rng_state(),
    }
    if is_main():
        save_atomically(content, path)


def _whole(part: Tensor, dim: int | None) -> Tensor:
    """The whole tensor, on the CPU where it may have to be put together."""
    return part if dim is None else gather_parts(part, dim).cpu()


def _own_part(whole: Tensor, dim: int | None) -> Tensor:
    """This process's part, with memory of its own where it is split."""
    return whole if dim is None else local_part(whole, dim).clone()


def _split_of(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], dims: dict) -> list[int | None]:
    """Of every parameter in the optimiser's order, the dimension along which it is split."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    return [dims.get(names[id(p)]) for group in optimizer.param_groups for p in group["params"]]


def _each_slot(state: dict, change, splits: list[int | None]) -> dict:
    """An optimiser's state, its tensors of a parameter's shape changed by (tensor, dimension of the split)."""
    slots = {
        number: {key: change(value, splits[number]) if value.ndim else value for key, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return state | {"state": slots}


def load_state(
    path: str | Path,
    tensors: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    settings: dict,
    dims: dict[str, int | None] | None = None,
) -> Progress:
    """Read back what `save_state` wrote, this process's part of it, into tensors, optimiser and random generators.

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
    dims = dims or {}
    saved = {name: local_part(tensor, dims.get(name)) for name, tensor in content["tensors"].items()}
    shapes = {name: (saved[name].shape, tensor.shape) for name, tensor in tensors.items() if name in saved}
    compare_names(str(path), set(saved), set(tensors), shapes)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
    optimizer.load_state_dict(_each_slot(content["optimizer"], _own_part, _split_of(optimizer, tensors, dims)))
    set_rng_state(content["rng"])
    return Progress(**{f.name: content["progress"][f.name] for f in fields(Progress)})
