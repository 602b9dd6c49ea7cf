"""Fine-tune HeLLM and test it: settings, data, model, training, choice by validation, one test.

    python train_HeLLM.py --preset demo
    python train_HeLLM.py --dataset Beauty --model_name PATH/Llama-2-7b [--resume]

Every setting is in config_HeLLM.py and is a flag of the same name.
"""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from config_HeLLM import Settings, non_default_settings, run_fingerprint
from llama.HeLLM import HeLLM
from llama.parallel import (
    all_reduce_data_parallel,
    all_reduce_gradients,
    clip_grad_norm,
    dp_rank,
    dp_size,
    shard_dims,
)
from preprocess.demo_data import ensure_demo_data
from utils.cli.errors import report_user_error
from utils.data.batches import collate, split_microbatches, training_batches
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions
from utils.data.layout import required_files
from utils.evaluation.metrics import format_headline_metrics, ranking_metrics
from utils.evaluation.ranking import Ranking, evaluate_ranking, rank_by_popularity
from utils.io.disk_full import DiskFullError
from utils.logs.records import SELECTION_METRIC, EpochRecord, FinalRecord
from utils.logs.run_log import RunLog, log_folder
from utils.planning import plan
from utils.planning.batch_size import fit_batch_sizes, suggest_batch_size
from utils.planning.simulation import simulate
from utils.runtime.distributed import (
    all_reduce_max,
    barrier,
    init_processes,
    is_distributed,
    is_main,
    resolve_device,
)
from utils.runtime.memory import explain_out_of_memory, is_out_of_memory, peak_memory
from utils.runtime.seed import make_deterministic, seed_at, seed_everything
from utils.runtime.signals import SignalFlag, StopTraining, stop_for_signal
from utils.sweep.command import parse_command
from utils.sweep.runner import run_sweep
from utils.training.adapter_file import adapter_parameters, load_adapter, save_adapter
from utils.training.build import build_model, load_data
from utils.training.checkpoints import BEST_ADAPTER, STATE, CheckpointManager, Progress, run_folder
from utils.training.prompt import prompt_positions_per_row
from utils.training.schedule import learning_rate


class Trainer:
    """One run: its model, data, optimiser and place; on each process of several, which go through it together.

    Args:
        settings, model, data, log: of the run; folder: for the best adapter and the training state.
    """

    def __init__(self, settings: Settings, model: HeLLM, data: Interactions, log: RunLog, folder: Path) -> None:
        self.settings, self.model, self.data, self.log, self.folder = settings, model, data, log, folder
        self.device = model.score.weight.device
        self.train_samples, self.progress = data.training_samples(settings.objective), Progress()
        self.constant = prompt_positions_per_row(settings.objective, settings.prompt)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.wd, fused=True
        )
        names = required_files(settings.dataset, settings.GNNModel)
        self.files = input_checksums(map(data.path.with_name, names))  # what is tested is of these
        depends_on = run_fingerprint(settings) | self.files
        what, dims = (adapter_parameters(model), self.optimizer, depends_on), shard_dims(model)
        self.states = CheckpointManager(folder, self.best_adapter, *what, log, dims, writes=dp_rank() == 0)
        self.signals, self.saved_at = SignalFlag(), time.monotonic()
        self.unread = []  # rows, learning rate, loss and gradient norm of the newest steps
        self.norm = None  # of the newest gradient
        self.failed = False  # whether one of them was not finite, on the device
        self.savable = False  # whether an epoch is on its way and its weights and optimiser are those of self.progress

    @property
    def best_adapter(self) -> Path:
        return self.folder / BEST_ADAPTER

    def save(self) -> None:
        """Save the state of all; nobody goes on, or leaves, before it is there."""
        self.read_losses()
        self.states.save(self.progress)
        barrier()
        self.saved_at = time.monotonic()

    def fit(self) -> None:
        """Train until the last epoch or until patience ends; keep the adapter that validates best."""
        progress, patience = self.progress, self.settings.patience
        while progress.epoch < self.settings.num_epochs:
            if patience and progress.epoch - 1 - progress.best_epoch >= patience:
                self.log.info(f"no better validation {SELECTION_METRIC} for {patience} epochs: training ends")
                break
            self.train_epoch()
            self.save()  # before the validation, which may take long
            self.validate_epoch()
            progress.next_epoch()
            self.save()
            self.log.write_metrics(progress.records)

    def train_epoch(self) -> None:
        """The rest of the current epoch's optimiser steps."""
        s, progress = self.settings, self.progress
        size, tokens = s.batch_size * s.grad_steps, s.tokens_per_batch * s.grad_steps
        batches = training_batches(self.train_samples.length, size, s.seed, progress.epoch, tokens, self.constant)
        self.model.train()
        self.savable = True
        started = time.perf_counter() - progress.seconds
        title, total = f"epoch {progress.epoch}", self.train_samples.n_targets(np.concatenate(batches))
        quiet = None if is_main() else True
        with tqdm(total=total, initial=progress.samples, desc=title, unit="samples", disable=quiet) as bar:
            for rows in batches[progress.step :]:
                rate = learning_rate(
                    progress.epoch + progress.step / len(batches), s.lr, s.min_lr, s.warmup_epochs, s.num_epochs
                )
                self.unread.append((rows, rate, self.step(rows, rate), self.norm))
                n_targets = self.train_samples.n_targets(rows)
                progress.step, progress.samples = progress.step + 1, progress.samples + n_targets
                self.savable = True
                number, minutes = all_reduce_max(self.signals.number, (time.monotonic() - self.saved_at) / 60)
                due = number or minutes > s.save_every_minutes
                if due or len(self.unread) == s.log_every or progress.step == len(batches):
                    self.read_losses()
                    progress.seconds = time.perf_counter() - started
                    bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.3f}", refresh=False)
                bar.update(n_targets)
                if due:
                    self.save()
                if number:
                    raise stop_for_signal(int(number), self.folder)
        self.savable = False

    def read_losses(self) -> None:
        """Take the newest steps' losses into the epoch's mean: the device is waited for.

        Raises:
            StopTraining: a loss or gradient that is not finite; weights and state are those from before it.
        """
        progress, unread, self.unread = self.progress, self.unread, []
        values = torch.stack([torch.stack(step[2:]) for step in unread]).tolist() if unread else []
        for number, (loss, norm) in enumerate(values):
            if not math.isfinite(loss + norm):
                undone = [rows for rows, *_ in unread[number:]]
                progress.step -= len(undone)
                progress.samples -= sum(map(self.train_samples.n_targets, undone))
                rate, users = unread[number][1], self.train_samples.user[undone[0]].tolist()
                stop = self.states.diverged(progress, loss, norm, rate, users)
                barrier()
                raise stop
            progress.loss_sum += loss

    def check_signals(self) -> None:
        """Raise StopTraining on all processes if a signal has come to one of them, the state being saved."""
        (number,) = all_reduce_max(self.signals.number)
        if number:
            raise stop_for_signal(int(number), self.folder)

    def step(self, rows, rate: float) -> Tensor:
        """One optimiser step at learning rate `rate` over samples `rows`; returns their mean loss, nats, unread.

        Each replica takes its share of the rows; losses and gradients are those of all rows. From a loss or gradient
        on that is not finite, no step changes anything, which the device sees to by itself.
        """
        s, targets = self.settings, self.train_samples.n_targets(rows)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # A state says nothing about what a replica draws, so that it serves any number of them.
        seed_at(s.seed, self.progress.epoch, self.progress.step, dp_rank())
        idle = dp_rank() >= len(rows)  # then any row, counted for nothing, gives the gradients that others have
        own = rows[:1] if idle else rows[dp_rank() :: dp_size()]
        for part in split_microbatches(own, self.train_samples.length, s.batch_size, s.tokens_per_batch, self.constant):
            batch = collate(self.data, self.train_samples, part, self.model.padding).to(self.device)
            n_targets = self.train_samples.n_targets(part)
            loss = self.model.loss(*batch, n_targets) * (0 if idle else n_targets / targets)
            loss.backward()
            total += loss.detach()
        all_reduce_gradients(self.trained)
        all_reduce_data_parallel(total)
        self.norm = clip_grad_norm(self.model, s.max_grad_norm).double()
        self.failed = ~(total + self.norm).isfinite() | self.failed
        self.optimizer.found_inf = self.failed.float()  # the fused step passes over everything where it is 1
        self.savable = False
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def rank(self, samples) -> Ranking:
        """Rank the samples' targets, every replica its share of them."""
        model, size = self.model.eval(), self.settings.eval_batch_size
        return evaluate_ranking(
            model, self.data, samples, size, self.device, model.padding, self.check_signals, distributed=True
        )

    def validate_epoch(self) -> None:
        """Rank all validation targets, record the epoch, keep the adapter when it is the best so far."""
        progress, samples = self.progress, self.data.validation()
        ranking = self.rank(samples)
        result = ranking_metrics(ranking.seen_kept)
        record = EpochRecord(
            epoch=progress.epoch,
            train_loss=progress.loss_sum / progress.step,
            lr=self.optimizer.param_groups[0]["lr"],
            seconds=progress.seconds,
            samples_per_s=progress.samples / progress.seconds,
            val=result,
            val_unseen=ranking_metrics(ranking.seen_removed),
        )
        progress.records.append(record)
        better = result[SELECTION_METRIC] > progress.best_score
        if better:
            progress.best_epoch, progress.best_score = progress.epoch, result[SELECTION_METRIC]
            if dp_rank() == 0:
                save_adapter(self.model, self.best_adapter)
        self.log.info(
            f"epoch {progress.epoch:3d}  loss {record.train_loss:.4f}  {record.seconds:.0f} s  "
            f"{record.samples_per_s:.0f} samples/s  validation {format_headline_metrics(result)}{'  best' if better else ''}"
        )

    def test(self) -> None:
        """Test the adapter that validated best, once, and log every figure."""
        progress, samples = self.progress, self.data.test()
        load_adapter(self.model, self.best_adapter)
        ranking = self.rank(samples)
        popularity = rank_by_popularity(self.data, samples)
        record = FinalRecord(
            best_epoch=progress.best_epoch,
            test=ranking_metrics(ranking.seen_kept),
            test_unseen=ranking_metrics(ranking.seen_removed),
            popularity=ranking_metrics(popularity.seen_kept),
            users=len(samples),
            users_per_s=ranking.users_per_s,
            settings=non_default_settings(self.settings),
            files=self.files,
            peak_memory_bytes=peak_memory(self.device),
        )
        self.log.log_test(record)
        self.log.write_final(progress.records, record, ranking)

    def out_of_memory(self) -> int:
        """End the run after memory ran out, saving what is whole; returns the exit status.

        Nobody may hold what the failed pass has computed any more.
        """
        self.optimizer.zero_grad()
        saved = self.savable and not is_distributed()  # others do not know, and wait for this process elsewhere
        if saved:
            self.save()
        else:
            saved = (self.folder / STATE).is_file()
        advice = suggest_batch_size(self.settings, self.data, self.model, self.device)
        what, state = "training" if self.model.training else "scoring", f"state saved in {self.folder}"
        go_on = f"{state}, go on with --resume" if saved else "nothing to go on from"
        self.log.info(f"out of memory in {what}: {go_on}; {advice}")
        return 1


def prepare(settings: Settings, shared: dict | None = None) -> Trainer:
    """Read all that a run needs; what is wrong with it shows here, before anything is written. `build_model` shares."""
    if settings.deterministic:
        make_deterministic()
    init_processes(settings.model_parallel, settings.model_name)
    device = resolve_device(settings.device)
    ensure_demo_data(settings)
    data, tables = load_data(settings)
    if settings.max_memory:
        settings = fit_batch_sizes(settings, simulate(settings, data, tables, device))
    seed_everything(settings.seed)
    model = build_model(settings, tables, device, shared)
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    logs = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel)
    log = RunLog(logs, settings.target, f"HeLLM/{settings.dataset}", quiet=not is_main())
    return Trainer(settings, model, data, log, folder)


@contextlib.contextmanager
def open_run(settings: Settings, shared: dict | None = None) -> Iterator[Trainer]:
    """Prepare a run, lock its folders and restore its newest checkpoint, or start anew.

    Raises:
        ValueError, OSError: an error of the user; RunInUseError: another process runs it.
    """
    with explain_out_of_memory():
        trainer = prepare(settings, shared)
    with trainer.states.begun(settings.resume) as trainer.progress:
        yield trainer


def run(trainer: Trainer) -> int:
    """Train and test; returns the exit status. A full disk is `DiskFullError`."""
    settings, log = trainer.settings, trainer.log
    trainer.signals.listen()
    log.clear(settings.resume)
    try:
        for line in plan.run_header(settings, trainer.model):
            log.info(line)
        trainer.fit()
        trainer.test()
        return 0
    except StopTraining as stop:
        log.info(str(stop))
        return stop.status
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return trainer.out_of_memory()  # not before the error has let go of the failed pass's tensors


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    with contextlib.ExitStack() as leaving:
        try:
            command = parse_command(argv)
            if command.sweep:
                return run_sweep(command, open_run, run)
            if command.settings.plan:
                plan.print_plan(command.settings)
                return 0
            trainer = leaving.enter_context(open_run(command.settings))
        except (ValueError, OSError) as mistake:
            return report_user_error(mistake)
        try:
            return run(trainer)
        except DiskFullError as full:
            print(f"error: {full}; make room and go on with --resume", file=sys.stderr)
            return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there is anything to save
        sys.exit(128 + signal.SIGINT)
