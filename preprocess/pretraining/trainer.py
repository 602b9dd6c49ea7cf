"""What both pre-trainings share: epochs, choice by validation, early stopping, states, log."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from llama.checkpoint import check_keys_and_shapes
from utils.cli.errors import report_user_error
from utils.cli.restored import fingerprint
from utils.cli.validation import SEED_RANGE, check_names, check_numbers, check_ranges
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions
from utils.data.layout import dataset_folder, require_files
from utils.evaluation.metrics import format_headline_metrics
from utils.evaluation.ranking import Ranking
from utils.io.disk_full import DiskFullError
from utils.io.torch_files import load_with_checksum, save_with_checksum
from utils.logs.records import EpochRecord, FinalRecord
from utils.logs.run_log import SETTINGS, RunLog, log_folder, settings_line
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import explain_out_of_memory, peak_memory
from utils.runtime.seed import seed_everything
from utils.runtime.signals import SignalFlag, StopTraining
from utils.training.checkpoints import CheckpointManager, Progress, run_folder

BEST_MODEL = "best_model.pt"  # in the run's folder
# Settings that a resumed pre-training may change: paths, devices and how often it saves
PRETRAIN_IGNORED_ON_RESUME = {"data_dir", "device", "output_dir", "logging_dir", "tables"}
PRETRAIN_IGNORED_ON_RESUME |= {"save_every_minutes", "resume", "overwrite"}


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of every pre-training."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/, where the tables go as well
    batch_size: int = 1024  # users an optimiser step
    lr: float = 1e-4  # learning rate at the beginning
    num_epochs: int = 1000  # epochs at most
    validate_every: int = 5  # epochs between validations
    patience: int = 5  # stop after so many validations without a better one; 0: never
    seed: int = 2024  # of every random generator
    device: str = "auto"  # cuda, cpu, …; auto: CUDA where there is one
    target: str = "pretrain"  # name of this run's files
    output_dir: str = "output"  # best model and training state
    logging_dir: str = "log"  # log, metrics and curves
    save_every_minutes: float = 10.0  # minutes between training states
    resume: bool = False  # go on from this run's last training state
    overwrite: bool = False  # replace tables that are there already


def validate_pretrain_settings(settings: PretrainSettings) -> list[str]:
    """Everything wrong with the shared settings, a phrase each."""
    problems = check_numbers(
        settings,
        at_least_1=("batch_size", "num_epochs", "validate_every"),
        positive=("lr",),
        at_least_0=("patience", "save_every_minutes"),
    )
    return problems + check_ranges(settings, seed=SEED_RANGE) + check_names(settings, "dataset", "target")


class PretrainProgram(Protocol):
    """What a program trains; made from settings and device, with everything read and checked."""

    fit: "PretrainTrainer"

    def train(self) -> None: ...


def open_training_data(settings: PretrainSettings, max_len: int, tables: list[str]) -> Interactions:
    """The interaction file, once it is sure that the tables' places are free.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """
    folder = require_files(settings.data_dir, settings.dataset, [f"{settings.dataset}.txt"])
    taken = [str(folder / name) for name in tables if (folder / name).exists()]
    if taken and not (settings.overwrite or settings.resume):
        raise ValueError(f"{', '.join(taken)}: there already; --overwrite replaces, another --data_dir keeps it")
    return Interactions(folder / f"{settings.dataset}.txt", max_len)


class PretrainTrainer:
    """A model in training.

    Args:
        settings: of the run; name: first part of its folders, what is trained (MMHCL, SASRec, …).
        model, optimizer: all of the model's parameters are saved.
        choose_by: validation metric of the best epoch.
        files: data files that it is trained on.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        name: str,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        choose_by: str,
        files: list[Path],
    ) -> None:
        self.settings, self.model, self.optimizer, self.choose_by = settings, model, optimizer, choose_by
        self.folder = run_folder(settings.output_dir, settings.dataset, name, settings.target)
        logs = log_folder(settings.logging_dir, settings.dataset, name)
        self.log = RunLog(logs, settings.target, f"{name}/{settings.dataset}")
        self.fingerprint = fingerprint(settings, PRETRAIN_IGNORED_ON_RESUME) | input_checksums(files)
        self.states = CheckpointManager(self.folder, self.best, self.tensors, optimizer, self.fingerprint, self.log)
        self.progress, self.signals, self.saved_at = Progress(), SignalFlag(), time.monotonic()

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    @property
    def best(self) -> Path:
        return self.folder / BEST_MODEL

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Keep other runs out of folder and log while the block goes on; go to the newest state if that is asked for.

        Raises:
            ValueError: another run is in one of them, or there is no going on from its states.
        """
        with self.states.begun(self.settings.resume) as self.progress:
            yield

    def save(self) -> None:
        self.states.save(self.progress)
        self.saved_at = time.monotonic()

    def descend(self, loss: torch.Tensor, users: np.ndarray) -> float:
        """One optimiser step down a loss over some users; returns it in nats.

        Raises:
            StopTraining: it or its gradient is not finite; nothing has changed, and the state is saved.
        """
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.tensors.values() if p.grad is not None])
        value, size = torch.stack([loss.detach(), norm]).tolist()
        if not math.isfinite(value + size):
            rate = self.optimizer.param_groups[0]["lr"]
            raise self.states.diverged(self.progress, value, size, rate, users.tolist())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

    def run(
        self,
        steps: int,
        step: Callable[[int, int], float],
        rate: Callable[[float], float],
        validate: Callable[[], dict[str, float]],
    ) -> None:
        """Train to the last epoch or the end of patience, then go back to the best epoch's parameters.

        Args:
            steps: optimiser steps an epoch; step: (epoch, step) to loss in nats, one of them.
            rate: epochs done to learning rate; validate: to metrics.

        Raises:
            StopTraining: by a signal, or by a loss or gradient that is not finite; state saved.
            DiskFullError: the disk is full.
        """
        self.signals.listen()
        if not self.progress.records and not self.progress.step:
            self.log.clear()
        self.log.info(settings_line(SETTINGS, self.fingerprint))
        self.log.info(f"{sum(p.numel() for p in self.model.parameters()):,} parameters, {steps:,} steps an epoch")
        progress, s = self.progress, self.settings
        while progress.epoch < s.num_epochs:
            if s.patience and progress.records:
                last = progress.records[-1].epoch
                if last - progress.best_epoch >= s.patience * s.validate_every and not progress.step:
                    self.log.info(f"no better validation {self.choose_by} for {s.patience} validations: training ends")
                    break
            self._epoch(steps, step, rate)
            due = (progress.epoch + 1) % s.validate_every == 0 or progress.epoch + 1 == s.num_epochs
            if due:
                self._validate(steps, validate)
            progress.epoch, progress.step = progress.epoch + 1, 0
            if due:
                self.save()
                self.log.write_metrics(progress.records)
        self._take_best()

    def _epoch(self, steps: int, step: Callable[[int, int], float], rate: Callable[[float], float]) -> None:
        progress = self.progress
        self.model.train()
        started = time.perf_counter() - progress.seconds
        title = f"epoch {progress.epoch}"
        with tqdm(total=steps, initial=progress.step, desc=title, unit="steps", disable=None, leave=False) as bar:
            while progress.step < steps:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate(progress.epoch + progress.step / steps)
                progress.loss_sum += step(progress.epoch, progress.step)
                progress.step += 1
                progress.seconds = time.perf_counter() - started
                bar.update()
                if self.signals.number or time.monotonic() - self.saved_at > 60 * self.settings.save_every_minutes:
                    self.save()
                    self.signals.check(self.folder)

    def _validate(self, steps: int, validate: Callable[[], dict[str, float]]) -> None:
        progress, s = self.progress, self.settings
        self.model.eval()
        result = validate()
        last = progress.records[-1].epoch if progress.records else -1
        epochs = progress.epoch - last
        record = EpochRecord(
            epoch=progress.epoch,
            train_loss=progress.loss_sum / (epochs * steps),
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=progress.seconds / epochs,
            samples_per_s=epochs * steps * s.batch_size / progress.seconds,
            val=result,
        )
        progress.records.append(record)
        better = result[self.choose_by] > progress.best_score
        if better:
            progress.best_epoch, progress.best_score = progress.epoch, result[self.choose_by]
            save_with_checksum({name: p.detach() for name, p in self.tensors.items()}, self.best)
        self.log.info(
            f"epoch {progress.epoch:3d}  loss {record.train_loss:.4f}  {record.seconds:.1f} s an epoch  "
            f"validation {format_headline_metrics(result)}{'  best' if better else ''}"
        )
        progress.loss_sum = progress.seconds = 0.0

    @torch.no_grad()
    def _take_best(self) -> None:
        saved = load_with_checksum(self.best)
        check_keys_and_shapes(str(self.best), set(saved), set(self.tensors), {})
        for name, parameter in self.tensors.items():
            parameter.copy_(saved[name])
        self.model.eval()

    def finish(
        self,
        tables: dict[str, torch.Tensor],
        test: dict[str, dict[str, float]],
        users: int,
        ranking: Ranking | None = None,
    ) -> None:
        """Write the tables into the dataset's folder and the test metrics into the log.

        Args:
            tables: file name to table; test: name in the metrics file to metrics; users: how many were tested.
            ranking: theirs, by the protocols of fine-tuning.
        """
        folder = dataset_folder(self.settings.data_dir, self.settings.dataset)
        for name, table in tables.items():
            save_with_checksum(table.detach().cpu().contiguous(), folder / name)
        self.log.info(f"best epoch {self.progress.best_epoch}, tested on {users:,} users")
        for name, values in test.items():
            self.log.info(f"{name:<12} {format_headline_metrics(values)}")
        self.log.log_published()
        record = FinalRecord(
            best_epoch=self.progress.best_epoch,
            users=users,
            settings=fingerprint(self.settings, PRETRAIN_IGNORED_ON_RESUME),
            peak_memory_bytes=peak_memory(next(self.model.parameters()).device),
            **test,
        )
        self.log.write_final(self.progress.records, record, ranking)
        self.log.info("written: " + ", ".join(str(folder / name) for name in tables))


def run_pretraining(
    settings: PretrainSettings, training: Callable[[PretrainSettings, torch.device], PretrainProgram]
) -> int:
    """The course of a pre-training program; returns its exit status."""
    with contextlib.ExitStack() as leaving:
        try:
            device = resolve_device(settings.device)
            seed_everything(settings.seed)
            with explain_out_of_memory():
                work = training(settings, device)
            leaving.enter_context(work.fit.begun())
        except (ValueError, OSError) as mistake:
            return report_user_error(mistake)
        try:
            work.train()
        except StopTraining as stop:
            print(stop, flush=True)
            return stop.status
        except DiskFullError as full:
            print(f"error: {full}; make room and go on with --resume", file=sys.stderr)
            return 1
    return 0
