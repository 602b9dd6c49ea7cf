"""The training loop of fine-tuning and of both pre-trainings.

Epochs, validation, early stopping, the best epoch, checkpoints, signals and the guard against non-finite numbers are
here. A `Task` says what is trained: its batches, the gradients of one of them, and how it is validated.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.cli.progress import LINE_SECONDS, ProgressBar
from utils.cli.terminal import print_line
from utils.io.disk_full import DiskFullError
from utils.logs.epoch_lines import epoch_header, epoch_line
from utils.logs.records import EpochRecord
from utils.logs.run_log import RunLog
from utils.logs.steps import StepRow
from utils.runtime.memory import peak_memory
from utils.runtime.processes import all_reduce_max, is_distributed, is_main
from utils.runtime.signals import SignalFlag, StopTraining, stop_for_signal
from utils.training.checkpoints import CheckpointManager, Progress
from utils.training.loss_meter import LossMeter, StepLoss
from utils.training.nonfinite import FailedStep
from utils.training.pace import LineTimer, Pace


class Batches(Protocol):
    """The batches of a task, one per optimizer step; a batch is whatever the task's `backward` understands."""

    def epoch(self, epoch: int) -> Sequence[Any]:
        """Return the batches of an epoch, in order: the same ones whenever the epoch is the same."""

    def n_samples(self, batch: Any) -> int:
        """Return the number of training samples in a batch, as the log counts them."""

    def users(self, batch: Any) -> list[int]:
        """Return the users whose samples are in a batch."""


class Task(Protocol):
    """The work that the loop trains.

    The best epoch is the one with the highest `choose_by`, a metric of `val` or `val_unseen` such as val.NDCG@10.
    """

    batches: Batches
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer  # a fused one: see LossMeter
    checkpoints: CheckpointManager
    log: RunLog
    choose_by: str

    @abstractmethod
    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at this (fractional) epoch."""

    @abstractmethod
    def backward(self, batch: Any, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of a batch; return its mean loss in nats and the gradient norm, both on the device."""

    @abstractmethod
    def validate(self, check_signals: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Return the validation metrics as they enter the epoch's record: `val`, and maybe `val_unseen`."""

    @abstractmethod
    def save_best(self) -> None:
        """Write the model of the best epoch so far."""


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop."""

    num_epochs: int
    patience: int  # stop after so many validations without a better one; 0: never
    save_every_minutes: float  # minutes between checkpoints within an epoch
    validate_every: int = 1  # epochs between validations; the last epoch is validated in any case
    log_every: int = 1  # optimizer steps between reads of the pending losses, each of which synchronises the GPU
    save_before_validation: bool = False  # for validations that take long
    log_every_seconds: float = LINE_SECONDS  # seconds between lines of progress where there is no terminal


class CheckpointTimer:
    """Decide when a checkpoint is due: after some minutes, or because a signal asks the run to stop.

    Args:
        minutes: minutes between checkpoints.
        signals: where signals are noted.
    """

    def __init__(self, minutes: float, signals: SignalFlag) -> None:
        self.minutes = minutes
        self.signals = signals
        self.restart()

    def restart(self) -> None:
        """Count the minutes from now."""
        self._started = time.monotonic()

    def poll(self) -> tuple[bool, int]:
        """Return whether a checkpoint is due, and the number of a signal or 0.

        A collective call: all ranks get the same answer, so that they save and stop at the same step.
        """
        elapsed = (time.monotonic() - self._started) / 60
        signum, elapsed = all_reduce_max(self.signals.number, elapsed)
        return bool(signum) or elapsed > self.minutes, int(signum)


class TrainingLoop:
    """Train a task from where a run stands to its last epoch.

    Args:
        task: what is trained.
        settings: settings of the loop.
        signals: where signals are noted; a sweep looks there, too.
    """

    def __init__(self, task: Task, settings: LoopSettings, signals: SignalFlag | None = None) -> None:
        self.task = task
        self.settings = settings
        self.signals = signals or SignalFlag()
        self.timer = CheckpointTimer(settings.save_every_minutes, self.signals)
        self.line_timer = LineTimer(settings.log_every_seconds)
        self.validation_seconds = 0.0  # of the last validation in this process
        self.n_steps = 0  # of the epoch
        self.row_started = 0.0  # time of the last row in the record of steps, or of the beginning of the epoch
        self.losses = LossMeter()
        self.progress = Progress()
        self.state_is_consistent = False  # weights, optimizer and progress are of the same step of an epoch

    def run_to_end(self, work: Callable[[], None]) -> int:
        """Call `work`, which trains and tests; return the exit status: 0, or that of a stop, which is logged.

        Raises:
            DiskFullError: the disk is full.
            RuntimeError: a ValueError or OSError, which is no user error here and keeps its traceback.
        """
        try:
            work()
        except StopTraining as stop:
            self.task.log.info(str(stop))
            return stop.status
        except DiskFullError as error:
            raise DiskFullError(f"{error}; make room, then resume with --resume") from error
        except (ValueError, OSError) as error:
            raise RuntimeError(f"{type(error).__name__} in training: {error}") from error
        return 0

    def run(self, progress: Progress) -> None:
        """Train to the last epoch, or until no validation has been better for `patience` validations.

        Args:
            progress: where the run stands; updated in place.

        Raises:
            StopTraining: a signal has come, or a loss or gradient is not finite; a checkpoint is saved.
            DiskFullError: the disk is full; the earlier checkpoints stay.
        """
        self.progress = progress
        settings = self.settings
        if is_main():
            self.task.log.steps.resume(progress.epoch + 1, progress.step)
        if progress.epoch < settings.num_epochs:
            self.task.log.info(epoch_header(settings.num_epochs, self.task.choose_by))
        while progress.epoch < settings.num_epochs and not self._out_of_patience():
            self.train_epoch()
            done = progress.epoch + 1
            is_validated = done % settings.validate_every == 0 or done == settings.num_epochs
            if is_validated:
                if settings.save_before_validation or not self.task.checkpoints.has_checkpoint():
                    self.save()  # so a best model never stands without a checkpoint
                self.validate()
            progress.next_epoch()
            if is_validated:
                self.save()
                self.task.log.write_metrics(progress.records)

    def _out_of_patience(self) -> bool:
        """Return whether training stops early, and log that it does."""
        settings, progress = self.settings, self.progress
        if not settings.patience or not progress.records:
            return False
        epochs = progress.records[-1].epoch - progress.best_epoch
        if epochs < settings.patience * settings.validate_every:
            return False
        waited = f"no better {self.task.choose_by} in {settings.patience} validations"
        self.task.log.info(f"{waited}: training stops early")
        return True

    def train_epoch(self) -> None:
        """Take the optimizer steps of the current epoch that are left."""
        task, progress = self.task, self.progress
        batches = task.batches.epoch(progress.epoch)
        sizes = [task.batches.n_samples(batch) for batch in batches]
        self.n_steps = len(batches)
        earlier_steps = self._earlier_steps()
        progress.samples = sum(sizes[: progress.step])  # recounted: an earlier version may have counted otherwise
        task.model.train()
        self.state_is_consistent = True
        self.row_started = time.perf_counter()
        started = self.row_started - progress.seconds
        title = f"epoch {progress.epoch + 1}/{self.settings.num_epochs}"
        with ProgressBar(title, sum(sizes), "samples", is_main(), lines=False) as bar:
            bar.update(progress.samples)
            for batch in batches[progress.step :]:
                self.step(batch, task.learning_rate(progress.epoch + progress.step / len(batches)))
                bar.update(task.batches.n_samples(batch))
                # All ranks save at the same step, and stop at the same step
                is_due, signum = self.timer.poll()
                if is_due or len(self.losses) == self.settings.log_every or progress.step == len(batches):
                    self.read_losses()
                    progress.seconds = time.perf_counter() - started
                    bar.bar.set_postfix(loss=f"{self._mean_loss(earlier_steps):.3f}", refresh=False)
                    if not bar.is_shown and is_main() and self.line_timer.is_due():
                        print_line(self._pace(sizes).describe(self._mean_loss(earlier_steps)))
                if is_due:
                    self.save()
                if signum:
                    raise stop_for_signal(signum, task.checkpoints.folder)

    def step(self, batch: Any, lr: float) -> Tensor:
        """Take one optimizer step; return its loss in nats, float scalar on the device.

        From the first non-finite loss or gradient on, the optimizer skips every step by itself, until `read_losses`
        finds out.
        """
        optimizer, progress = self.task.optimizer, self.progress
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, grad_norm = self.task.backward(batch, progress.epoch, progress.step)
        optimizer.found_inf = self.losses.add(loss, grad_norm, batch, lr)
        self.state_is_consistent = False
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.samples += self.task.batches.n_samples(batch)
        self.state_is_consistent = True
        return loss

    def read_losses(self) -> None:
        """Add the pending losses to the epoch's, and a row to the record of steps. Synchronises the GPU.

        Raises:
            StopTraining: a loss or gradient is not finite; a checkpoint from before that step is saved.
        """
        progress = self.progress
        steps = self.losses.read()
        for done, step in enumerate(steps):
            if math.isfinite(step.loss + step.grad_norm):
                progress.loss_sum += step.loss
                continue
            # The optimizer has skipped this step and those after it: they do not count
            skipped = steps[done:]
            self._record(steps[:done])
            progress.step -= len(skipped)
            progress.samples -= sum(self.task.batches.n_samples(each.batch) for each in skipped)
            failed = FailedStep(step.loss, step.grad_norm, step.lr, self.task.batches.users(step.batch))
            raise self.task.checkpoints.save_before_divergence(progress, failed)
        self._record(steps)

    def _record(self, steps: list[StepLoss]) -> None:
        """Add these steps, whose losses have been read and which all count, as a row to the record of steps."""
        now = time.perf_counter()
        seconds = now - self.row_started
        self.row_started = now
        if not steps or not is_main():
            return
        progress = self.progress
        row = StepRow(
            epoch=progress.epoch + 1,
            step=progress.step,
            loss=sum(step.loss for step in steps) / len(steps),
            lr=steps[-1].lr,
            samples_per_s=sum(self.task.batches.n_samples(step.batch) for step in steps) / seconds,
            peak_memory_bytes=peak_memory(next(self.task.model.parameters()).device),
        )
        self.task.log.steps.add(row, self._total_steps())

    def _total_steps(self) -> int:
        """Return the steps of all epochs so far, if all have as many as this one."""
        return self.progress.epoch * self.n_steps + self.progress.step

    def _pace(self, sizes: list[int]) -> Pace:
        """Return where the training stands.

        Args:
            sizes: samples of each step of the epoch.
        """
        progress = self.progress
        samples = progress.epochs_since_validation * sum(sizes) + progress.samples
        return Pace(
            epoch=progress.epoch,
            num_epochs=self.settings.num_epochs,
            step=progress.step,
            n_steps=len(sizes),
            samples=progress.samples,
            n_samples=sum(sizes),
            samples_per_s=samples / progress.seconds,
            validation_seconds=self.validation_seconds / self.settings.validate_every,
        )

    def _earlier_steps(self) -> int:
        """Return the number of steps in the epochs that are done since the last validation."""
        progress = self.progress
        first = progress.epoch - progress.epochs_since_validation
        return sum(len(self.task.batches.epoch(epoch)) for epoch in range(first, progress.epoch))

    def _mean_loss(self, earlier_steps: int) -> float:
        """Return the mean loss of all steps since the last validation, nats.

        Args:
            earlier_steps: those in the epochs before the running one.
        """
        return self.progress.loss_sum / (earlier_steps + self.progress.step)

    def save(self) -> None:
        """Write a checkpoint; all ranks wait until it is on disk."""
        self.read_losses()
        self.task.checkpoints.save(self.progress)
        self.timer.restart()

    def stop_out_of_memory(self, advise: Callable[[], str]) -> StopTraining:
        """Save a checkpoint if possible; return the StopTraining to raise.

        Args:
            advise: returns settings that need less memory; called when the failed step's memory is free again.
        """
        phase = "training" if self.task.model.training else "scoring"
        self.task.optimizer.zero_grad()
        # Other ranks are inside a collective and cannot join a save
        if self.state_is_consistent and not is_distributed():
            self.save()
        resume = "no checkpoint to resume from"
        if self.task.checkpoints.has_checkpoint():
            resume = f"checkpoint saved in {self.task.checkpoints.folder}, resume with --resume"
        return StopTraining(f"out of memory in {phase}: {resume}; {advise()}", 1)

    def check_signals(self) -> None:
        """Stop all ranks if a signal has come to one of them. Called during validation and testing.

        Raises:
            StopTraining: a signal has come.
        """
        (signum,) = all_reduce_max(self.signals.number)
        if signum:
            raise stop_for_signal(int(signum), self.task.checkpoints.folder)

    def validate(self) -> None:
        """Validate, record the epochs since the last validation, and keep the model if it is the best so far."""
        task, progress = self.task, self.progress
        self.state_is_consistent = False
        task.model.eval()
        started = time.perf_counter()
        metrics = task.validate(self.check_signals)
        self.validation_seconds = time.perf_counter() - started
        epochs = progress.epochs_since_validation + 1
        record = EpochRecord(
            epoch=progress.epoch,
            train_loss=self._mean_loss(self._earlier_steps()),
            lr=task.optimizer.param_groups[0]["lr"],
            seconds=progress.seconds / epochs,
            samples_per_s=epochs * progress.samples / progress.seconds,
            **metrics,
        )
        progress.records.append(record)
        score = record.score(task.choose_by)
        is_best = score > progress.best_score
        if is_best:
            progress.best_epoch = progress.epoch
            progress.best_score = score
            task.save_best()
        progress.loss_sum = 0.0
        progress.seconds = 0.0
        epochs_left = self.settings.num_epochs - progress.epoch - 1
        seconds_left = epochs_left * (record.seconds + self.validation_seconds / self.settings.validate_every)
        task.log.info(epoch_line(record, self.settings.num_epochs, task.choose_by, seconds_left, is_best))
        if is_main():
            task.log.steps.add_validation(metrics, self._total_steps())
