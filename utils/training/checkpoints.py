"""Checkpoints of a run: all that is trained, the optimizer, every random generator, and where the run stands."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from llama.checkpoint import check_keys_and_shapes
from llama.parallel import dp_rank, shard, unshard
from utils.cli.restored import diff_settings
from utils.io.checksums import CorruptFileError, verify_checksum
from utils.io.torch_files import load_versioned, save_with_checksum
from utils.logs.records import EpochRecord
from utils.logs.run_log import RunLog
from utils.runtime.lock import run_lock
from utils.runtime.processes import all_reduce_max, barrier, is_main
from utils.runtime.seed import rng_state, set_rng_state
from utils.runtime.signals import StopTraining
from utils.training.nonfinite import FailedStep, find_nonfinite
from utils.training.run_files import PREVIOUS_STATE, STATE, RunFiles

FORMAT, VERSION = "HeLLM training state", 2  # written into each checkpoint


@dataclass
class Progress:
    """The position of a run.

    Epochs count from 0. `step` optimizer steps of `epoch` are done; between epochs it is 0 of the next one.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0  # trained on in this epoch
    loss_sum: float = 0.0  # over the steps since the last validation, nats
    seconds: float = 0.0  # of training since the last validation
    best_epoch: int = -1  # -1: none is validated yet
    best_score: float = -1.0  # its validation metric
    records: list[EpochRecord] = field(default_factory=list)  # one per validated epoch

    @property
    def epochs_since_validation(self) -> int:
        """Number of epochs that are done and not validated, the running one left out."""
        last = self.records[-1].epoch if self.records else -1
        return self.epoch - last - 1

    def describe(self) -> str:
        """Return epoch, counted from 1 as in the log, and the number of its steps that are done, in words."""
        return f"epoch {self.epoch + 1}, step {self.step}"

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch += 1
        self.step = 0
        self.samples = 0


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint: `settings`, `progress`, `tensors`, `optimizer`, `rng`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged (CorruptFileError), of another format or version, or lacks a part.
    """
    parts = {
        "settings": (),
        "progress": [f.name for f in fields(Progress)],
        "tensors": (),
        "optimizer": ("state", "param_groups"),
        "rng": rng_state(),
    }
    return load_versioned(path, FORMAT, VERSION, parts)


class CheckpointManager:
    """Write and restore the checkpoints of one run, of which its folder keeps the two newest.

    Args:
        folder: folder of the run.
        best: file of the best epoch's model.
        log: log of the run; the lock keeps other runs out of it, too.
        fingerprint: settings, and checksums of the data files, which a resumed run must share.
        tensors: trained tensors, by name.
        optimizer: optimizer of these tensors.
        shard_dims: the dimension along which each tensor is split over the ranks that share the model, None for a
            tensor that each of them holds; None for all where training knows no ranks.
    """

    def __init__(
        self,
        folder: Path,
        best: Path,
        log: RunLog,
        fingerprint: dict,
        tensors: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        shard_dims: dict[str, int | None] | None = None,
    ) -> None:
        self.folder = folder
        self.best = best
        self.log = log
        self.fingerprint = fingerprint
        self.tensors = tensors
        self.optimizer = optimizer
        self.shard_dims = shard_dims or {}
        # One replica of the model writes
        self.is_writer = shard_dims is None or dp_rank() == 0
        self.files = RunFiles(folder, best, log.metrics_path)
        self._unreleased_lock = ""  # line for the log, if an earlier process ended without releasing the lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder and the log while the block runs.

        Raises:
            RunInUseError: another run is in one of them.
            ValueError: a folder stands where this run will write a file.
        """
        with (
            run_lock(self.log.stem, is_prefix=True) as from_log,
            run_lock(self.folder) as from_folder,
            contextlib.closing(self.log),
        ):
            paths = [self.folder / STATE, self.folder / PREVIOUS_STATE, self.best, *self.log.paths]
            for path in paths:
                if path.is_dir():
                    raise ValueError(f"{path}: a folder where a file belongs; remove it")
            self._unreleased_lock = from_folder or from_log
            yield

    def begin(self, resume: bool, overwrite: bool) -> Progress:
        """Return where the run starts: at its newest checkpoint if it is to be resumed, else at the beginning.

        Args:
            resume: resume from a checkpoint, if there is one.
            overwrite: replace an earlier run of this name.

        Raises:
            ValueError: an earlier run would be replaced unasked; or as `restore`. Nothing is changed.
        """
        self.files.refuse_committee()
        if resume and self.files.has_checkpoint:
            return self.restore()
        if not overwrite:
            self.files.refuse_replacing()
        earlier = ""
        with contextlib.suppress(ValueError):  # records that can't be read are replaced, too
            earlier = self.files.describe()
        progress = self.restore() if resume else self.reset()
        if earlier:
            self.log.info(f"replaces the {earlier}")
        return progress

    def reset(self) -> Progress:
        """Remove what an earlier run has left in the folder and the log; return the beginning of a run."""
        if is_main():
            for path in (self.folder / STATE, self.folder / PREVIOUS_STATE, self.best):
                path.unlink(missing_ok=True)
        self.log.clear()
        self._log_unreleased_lock()
        return Progress()

    def restore(self) -> Progress:
        """Restore the newest checkpoint that is not damaged; start from the beginning if there is none.

        Raises:
            ValueError: the checkpoints, or the best epoch's file, are damaged, of another format or version, lack a
                part, are of other settings or data files (named), do not fit the model, or differ between machines.
                Nothing is changed.
        """
        path, content, damage = self._read_latest_valid()
        if path is None:
            progress = self.reset()
            self.log.info(f"no checkpoint in {self.folder}: starting from the beginning")
            return progress
        progress = self._load(path, content)
        self.log.remove_failure()
        self._log_unreleased_lock()
        for reason in damage:
            self.log.info(f"{reason}; falling back to the previous checkpoint")
        self.log.info(f"resumed at {progress.describe()}")
        return progress

    def _log_unreleased_lock(self) -> None:
        if self._unreleased_lock:
            self.log.info(self._unreleased_lock)

    def is_tested(self, progress: Progress) -> bool:
        """Return whether the run has ended with these epochs and was tested; the same on all ranks, which must call."""
        return any(all_reduce_max(self.log.finished_record(progress.records) is not None))

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint on disk."""
        return self.files.has_checkpoint

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; all ranks must call, and wait until it is on disk.

        Raises:
            StopTraining: a tensor is not finite; the checkpoints on disk stay.
            DiskFullError: the disk is full; the checkpoints on disk stay.
        """
        bad = find_nonfinite(self.tensors, self.optimizer)
        if bad:
            where = progress.describe()
            raise StopTraining(f"{bad} holds NaN or infinity before {where}: not saved; try a lower --lr", 1)
        self._write(progress)
        barrier()

    def save_before_divergence(self, progress: Progress, failed: FailedStep) -> StopTraining:
        """Return the StopTraining to raise for a failed step, once a checkpoint from before it is saved.

        No checkpoint is saved if a tensor was not finite before that step either. All ranks must call.

        Args:
            progress: progress before that step; the tensors have the values from before it, too.
            failed: the step.
        """
        bad = find_nonfinite(self.tensors, self.optimizer)
        if not bad:
            self._write(progress)
            kept = f"the checkpoint from before it is in {self.folder}"
        elif self.has_checkpoint():
            kept = f"{bad} was not finite before, and an older checkpoint is in {self.folder}"
        else:
            kept = f"{bad} was not finite before, and there is no older checkpoint"
        barrier()
        what = failed.describe(self.tensors)
        return StopTraining(f"not finite at {progress.describe()}: {what}; {kept}; try a lower --lr", 1)

    def _write(self, progress: Progress) -> None:
        """Write unsharded tensors, so that the checkpoint does not depend on the number of ranks."""
        if not self.is_writer:
            return
        tensors = {name: _unshard(t.detach(), self.shard_dims.get(name)) for name, t in self.tensors.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.fingerprint,
            "progress": asdict(progress) | {"records": [record.to_json() for record in progress.records]},
            "tensors": tensors,
            "optimizer": _map_optimizer_state(self.optimizer.state_dict(), _unshard, self._optimizer_dims()),
            "rng": rng_state(),
        }
        if is_main():
            save_with_checksum(content, self.folder / STATE, self.folder / PREVIOUS_STATE)

    def _optimizer_dims(self) -> list[int | None]:
        """Return the dimension along which each parameter is split, in the optimizer's order."""
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [self.shard_dims.get(names[id(p)]) for p in parameters]

    def _load(self, path: Path, content: dict) -> Progress:
        """Load this rank's part of a checkpoint that was read from `path`, once all of it is known to fit."""
        differences = diff_settings(content["settings"], self.fingerprint)
        if differences:
            what = f"saved under other settings or data: {'; '.join(differences)}"
            raise ValueError(f"{path}: {what}; use the same ones or another --target")
        progress = Progress(**{f.name: content["progress"][f.name] for f in fields(Progress)})
        progress.records = [EpochRecord.from_json(values) for values in progress.records]
        if progress.best_epoch >= 0:
            try:
                verify_checksum(self.best)
            except (FileNotFoundError, CorruptFileError) as error:
                what = f"it is that of epoch {progress.best_epoch + 1}; put back a copy, or start over without --resume"
                raise CorruptFileError(f"{error}; {what}") from error
        saved = {name: shard(tensor, self.shard_dims.get(name)) for name, tensor in content["tensors"].items()}
        shapes = {name: (saved[name].shape, t.shape) for name, t in self.tensors.items() if name in saved}
        check_keys_and_shapes(str(path), set(saved), set(self.tensors), shapes)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(saved[name])
        optimizer = _map_optimizer_state(content["optimizer"], _shard, self._optimizer_dims())
        self.optimizer.load_state_dict(optimizer)
        set_rng_state(content["rng"])
        return progress

    def _read_latest_valid(self) -> tuple[Path | None, dict, list[str]]:
        """Return the newest checkpoint that is not damaged, its content, and the damage of newer ones.

        The path is None where there is no checkpoint. A collective call: all ranks get the same.
        """
        paths = [path for path in (self.folder / STATE, self.folder / PREVIOUS_STATE) if path.exists()]
        path, content, damage = None, {}, []
        for path in paths:
            try:
                content = read_checkpoint(path)
                break
            except CorruptFileError as error:
                damage.append(str(error))
        # All ranks must have found as many files, and as many damaged: the largest numbers are the smallest, too
        largest = all_reduce_max(len(paths), len(damage))
        smallest = [-negated for negated in all_reduce_max(-len(paths), -len(damage))]
        if list(largest) != smallest:
            where = f"{self.folder}: not the same checkpoints on every machine"
            raise ValueError(f"{where}; --output_dir must be one folder for all")
        if paths and len(damage) == len(paths):
            raise CorruptFileError(f"{'; '.join(damage)}; put back a copy, or start over without --resume")
        return path, content, damage


def _unshard(part: Tensor, dim: int | None) -> Tensor:
    """Return the unsharded tensor, on the CPU where it has to be put together."""
    return part if dim is None else unshard(part, dim).cpu()


def _shard(full: Tensor, dim: int | None) -> Tensor:
    """Return this rank's shard, a copy, so that it does not keep the full tensor alive."""
    return full if dim is None else shard(full, dim).clone()


def _map_optimizer_state(state: dict, change: Callable[[Tensor, int | None], Tensor], dims: list[int | None]) -> dict:
    """Return an optimizer's state with `change` applied to each tensor that has the shape of its parameter.

    Args:
        state: state of the optimizer, as `state_dict` returns it.
        change: called with (tensor, split dimension); returns the tensor to put in its place.
        dims: the split dimension of each parameter.
    """
    slots = {
        index: {key: change(value, dims[index]) if value.ndim else value for key, value in slot.items()}
        for index, slot in state["state"].items()
    }
    return state | {"state": slots}
