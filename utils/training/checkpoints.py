"""A complete training state: what is trained, the optimiser, every random generator, the place in the run."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from llama.checkpoint import check_keys_and_shapes
from llama.parallel import shard, unshard
from utils.cli.restored import diff_settings
from utils.io.checksums import CorruptFileError, verify_checksum
from utils.io.torch_files import load_versioned, save_with_checksum
from utils.logs.records import EpochRecord
from utils.logs.run_log import RunLog
from utils.runtime.distributed import all_reduce_max, is_main
from utils.runtime.lock import run_lock
from utils.runtime.seed import rng_state, set_rng_state
from utils.runtime.signals import StopTraining
from utils.training.nonfinite import describe_failed_step, find_nonfinite

FORMAT, VERSION = "HeLLM training state", 2
STATE, PREVIOUS_STATE, BEST_ADAPTER = "training_state.pt", "training_state_before.pt", "best_adapter.pt"  # of a run


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
    records: list[EpochRecord] = field(default_factory=list)  # of the metrics file

    @property
    def place(self) -> str:
        """In words."""
        return f"epoch {self.epoch}, step {self.step}"

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.step, self.samples, self.loss_sum, self.seconds = self.epoch + 1, 0, 0, 0.0, 0.0


def run_folder(output_dir: str | Path, dataset: str, GNNModel: str, target: str) -> Path:
    """Where a run keeps its adapter and states."""
    return Path(output_dir) / dataset / GNNModel / target


def read_checkpoint(path: Path) -> dict:
    """The content of a training state: `settings`, `progress`, `tensors`, `optimizer`, `rng`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged (CorruptFileError), of another format or version, or without some of it.
    """
    parts = {"settings": (), "progress": [f.name for f in fields(Progress)], "tensors": ()}
    return load_versioned(path, FORMAT, VERSION, parts | {"optimizer": ("state", "param_groups"), "rng": rng_state()})


class CheckpointManager:
    """The states of one run, the two newest of which are kept in its folder.

    Args:
        folder: of the run; best: file of its best epoch.
        tensors: what is trained, by name; optimizer: of these.
        settings: what a resumed run must agree with, data files among it.
        log: of the run, which other runs are kept out of as well; told where a run goes on.
        dims: along which dimension a tensor is split over the processes that share the model.
        writes: whether this process, or one that it shares the model with, writes.
    """

    def __init__(
        self,
        folder: Path,
        best: Path,
        tensors: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        settings: dict,
        log: RunLog,
        dims: dict[str, int | None] | None = None,
        writes: bool = True,
    ) -> None:
        self.folder, self.best, self.tensors, self.optimizer = folder, best, tensors, optimizer
        self.settings, self.log, self.dims, self.writes = settings, log, dims or {}, writes

    @contextlib.contextmanager
    def begun(self, resume: bool) -> Iterator[Progress]:
        """Keep other runs out of folder and log while the block goes on; the place where this run begins.

        Args:
            resume: go to the newest state that is whole, or to the beginning where there is none. Without it, what
                an earlier run has left in the folder is removed, so that all that is there is of this one.

        Raises:
            ValueError: another run is in one of them; states, or the best epoch, are damaged, of another format or
                version, lack a part, are of other settings or data files (named), do not fit the model, are not the
                same everywhere.
        """
        with (
            run_lock(self.log.stem, "_") as from_log,
            run_lock(self.folder) as from_folder,
            contextlib.closing(self.log),
        ):
            self._check_places()
            progress = self._go_on() if resume else self._start_over()
            if gone := from_folder or from_log:
                self.log.info(gone)
            yield progress

    def save(self, progress: Progress) -> None:
        """Save the state; all processes must call.

        Raises:
            StopTraining: something is not finite; what was saved stays.
            DiskFullError: the disk is full; what was saved stays.
        """
        bad = find_nonfinite(self.tensors, self.optimizer)
        if bad:
            raise StopTraining(f"{bad} holds NaN or infinity before {progress.place}: not saved; try a lower --lr", 1)
        self._write(progress)

    def diverged(self, progress: Progress, *step) -> StopTraining:
        """How a run ends whose loss or gradient is not finite, the state from before it saved; all must call.

        Args:
            progress: before that step, as the tensors are; step: as in `describe_step`, but the tensors.
        """
        bad = find_nonfinite(self.tensors, self.optimizer)
        if not bad:
            self._write(progress)
        older = f"an older state is in {self.folder}" if (self.folder / STATE).is_file() else "there is no older state"
        kept = f"{bad} was not finite before, and {older}" if bad else f"the state from before it is in {self.folder}"
        what = describe_failed_step(*step, self.tensors)
        return StopTraining(f"not finite at {progress.place}: {what}; {kept}; try a lower --lr", 1)

    def _write(self, progress: Progress) -> None:
        """Whole tensors whatever the number of processes."""
        if not self.writes:
            return
        optimizer, dims = self.optimizer.state_dict(), self.dims
        content = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "progress": asdict(progress) | {"records": [record.to_json() for record in progress.records]},
            "tensors": {name: _unshard(tensor.detach(), dims.get(name)) for name, tensor in self.tensors.items()},
            "optimizer": _map_optimizer_state(optimizer, _unshard, self._splits()),
            "rng": rng_state(),
        }
        if is_main():
            save_with_checksum(content, self.folder / STATE, self.folder / PREVIOUS_STATE)

    def _splits(self) -> list[int | None]:
        """Of every parameter in the optimiser's order, the dimension along which it is split."""
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        return [self.dims.get(names[id(p)]) for group in self.optimizer.param_groups for p in group["params"]]

    def _check_places(self) -> None:
        """See that no folder stands where this run will write."""
        places = [self.folder / STATE, self.folder / PREVIOUS_STATE, self.best, *self.log.paths]
        if folders := [path for path in places if path.is_dir()]:
            raise ValueError(f"{folders[0]}: a folder where a file belongs; remove it")

    def _start_over(self) -> Progress:
        if is_main():
            for path in (self.folder / STATE, self.folder / PREVIOUS_STATE, self.best):
                path.unlink(missing_ok=True)
        return Progress()

    def _go_on(self) -> Progress:
        """Go to the newest state that is whole, this process's part of it."""
        path, content, damage = self._newest()
        if not path:
            self.log.info(f"no training state in {self.folder}: starting from the beginning")
            return Progress()
        _check_settings(path, content["settings"], self.settings)
        progress = Progress(**{f.name: content["progress"][f.name] for f in fields(Progress)})
        progress.records = [EpochRecord.from_json(values) for values in progress.records]
        if progress.best_epoch >= 0:
            try:
                verify_checksum(self.best)
            except (FileNotFoundError, CorruptFileError) as reason:
                what = f"it is the best epoch, {progress.best_epoch}; put back a copy, or start anew without --resume"
                raise CorruptFileError(f"{reason}; {what}") from reason
        saved = {name: shard(tensor, self.dims.get(name)) for name, tensor in content["tensors"].items()}
        shapes = {name: (saved[name].shape, t.shape) for name, t in self.tensors.items() if name in saved}
        check_keys_and_shapes(str(path), set(saved), set(self.tensors), shapes)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(saved[name])
        self.optimizer.load_state_dict(_map_optimizer_state(content["optimizer"], _shard, self._splits()))
        set_rng_state(content["rng"])
        for reason in damage:
            self.log.info(f"{reason}; the state before it is taken")
        self.log.info(f"resumed at {progress.place}")
        return progress

    def _newest(self) -> tuple[Path | None, dict, list[str]]:
        """The newest state that is whole, its content, and what is wrong with newer ones; None without any state.

        All processes must call, and get the same.
        """
        paths = [path for path in (self.folder / STATE, self.folder / PREVIOUS_STATE) if path.exists()]
        path, content, damage = None, {}, []
        for path in paths:
            try:
                content = read_checkpoint(path)
                break
            except CorruptFileError as reason:
                damage.append(str(reason))
        found = 2 * len(paths) + len(damage)
        if all_reduce_max(found) != [-number for number in all_reduce_max(-found)]:
            where = f"{self.folder}: not the same states on every machine"
            raise ValueError(f"{where}; --output_dir must be one folder for all")
        if paths and len(damage) == len(paths):
            raise CorruptFileError(f"{'; '.join(damage)}; put back a copy, or start anew without --resume")
        return path, content, damage


def _unshard(part: Tensor, dim: int | None) -> Tensor:
    """The whole tensor, on the CPU where it may have to be put together."""
    return part if dim is None else unshard(part, dim).cpu()


def _shard(whole: Tensor, dim: int | None) -> Tensor:
    """This process's part, with memory of its own where it is split."""
    return whole if dim is None else shard(whole, dim).clone()


def _map_optimizer_state(state: dict, change, splits: list[int | None]) -> dict:
    """An optimiser's state, its tensors of a parameter's shape changed by (tensor, dimension of the split)."""
    slots = {
        number: {key: change(value, splits[number]) if value.ndim else value for key, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return state | {"state": slots}


def _check_settings(path: Path, theirs: dict, settings: dict) -> None:
    differ = diff_settings(theirs, settings)
    if differ:
        raise ValueError(
            f"{path}: saved under other settings or data: {'; '.join(differ)}; use the same ones or another --target"
        )
