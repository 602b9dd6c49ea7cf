"""Fine-tune HeLLM and test it: settings, data, model, training, choice by validation, one test.

    python train_HeLLM.py --preset demo
    python train_HeLLM.py --dataset Beauty --model_name PATH/Llama-2-7b [--resume]

Every setting is in config_HeLLM.py and is a flag of the same name.
"""

import math
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from config_HeLLM import FREE_TO_CHANGE, Settings, parse_args
from llama.checkpoint import adapter_parameters, load_adapter, save_adapter
from llama.HeLLM import HeLLM
from llama.parallel import ensure_model_parallel, mp_size
from llama.weight_files import load_file
from utils import plan
from utils.build import build_model, model_args, number_format, read_inputs
from utils.data import Interactions, check_files, required_files, training_batches
from utils.distributed import is_main, main_first, pick_device
from utils.evaluate import Ranking, rank_by_popularity, rank_newest
from utils.flags import complain, fingerprint
from utils.lr_sched import learning_rate
from utils.metrics import metrics, summary
from utils.prompter import LENGTHS
from utils.run_log import RunLog
from utils.seed import seed_everything
from utils.stopping import Stopped, StopSignals
from utils.training_state import BEST_ADAPTER, Progress, load_state, run_folder, save_state, state_path

CHOOSE_BY = "NDCG@10"  # of validation


class Trainer:
    """One run: its model, data, optimiser and place.

    Args:
        settings, model, data, log: of the run; folder: for the best adapter and the training state.
    """

    def __init__(self, settings: Settings, model: HeLLM, data: Interactions, log: RunLog, folder: Path) -> None:
        self.settings, self.model, self.data, self.log, self.folder = settings, model, data, log, folder
        self.device = model.score.weight.device
        self.causal = settings.objective == "causal"
        self.train_samples, self.progress = data.train_users() if self.causal else data.train(), Progress()
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.wd, fused=True
        )
        self.signals, self.saved_at = StopSignals(), time.monotonic()

    @property
    def best_adapter(self) -> Path:
        return self.folder / BEST_ADAPTER

    def save(self) -> None:
        settings = fingerprint(self.settings, FREE_TO_CHANGE)
        save_state(state_path(self.folder), adapter_parameters(self.model), self.optimizer, self.progress, settings)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go to the last saved state, if there is one."""
        if not state_path(self.folder).is_file():
            self.log.say(f"no training state in {self.folder}: starting from the beginning")
            return
        settings = fingerprint(self.settings, FREE_TO_CHANGE)
        self.progress = load_state(state_path(self.folder), adapter_parameters(self.model), self.optimizer, settings)
        self.log.say(f"resumed at epoch {self.progress.epoch}, step {self.progress.step}")

    def fit(self) -> None:
        """Train until the last epoch or until patience ends; keep the adapter that validates best."""
        progress, patience = self.progress, self.settings.patience
        while progress.epoch < self.settings.num_epochs:
            if patience and progress.epoch - 1 - progress.best_epoch >= patience:
                self.log.say(f"no better validation {CHOOSE_BY} for {patience} epochs: training ends")
                break
            self.train_epoch()
            self.save()  # before the validation, which may take long
            self.validate_epoch()
            progress.next_epoch()
            self.save()
            self.log.write(progress.records)

    def train_epoch(self) -> None:
        """The rest of the current epoch's optimiser steps."""
        s, progress = self.settings, self.progress
        size = s.batch_size * s.grad_steps
        batches = training_batches(self.train_samples.length, size, s.seed, progress.epoch)
        self.model.train()
        started = time.perf_counter() - progress.seconds
        title, total = f"epoch {progress.epoch}", self.targets(np.concatenate(batches))
        with tqdm(total=total, initial=progress.samples, desc=title, unit="samples", disable=None) as bar:
            for rows in batches[progress.step :]:
                rate = learning_rate(
                    progress.epoch + progress.step / len(batches), s.lr, s.min_lr, s.warmup_epochs, s.num_epochs
                )
                progress.loss_sum += self.step(rows, rate)
                progress.step, progress.samples = progress.step + 1, progress.samples + self.targets(rows)
                progress.seconds = time.perf_counter() - started
                bar.update(self.targets(rows))
                bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.3f}", refresh=False)
                if self.signals.number or time.monotonic() - self.saved_at > 60 * s.save_every_minutes:
                    self.save()
                    self.signals.check(self.folder)

    def step(self, rows, rate: float) -> float:
        """One optimiser step at learning rate `rate` over samples `rows`; returns their mean loss in nats."""
        s, total = self.settings, 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        targets = self.targets(rows)
        for first in range(0, len(rows), s.batch_size):
            part = rows[first : first + s.batch_size]
            batch = self.data.batch(self.train_samples, part, every=self.causal)
            batch = (t if t is None else t.to(self.device) for t in batch)
            loss = self.model.loss(*batch) * (self.targets(part) / targets)
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            users = ", ".join(map(str, self.train_samples.user[rows].tolist()))
            where = f"epoch {self.progress.epoch}, step {self.progress.step}"
            raise Stopped(f"loss {total} at {where}, learning rate {rate:.2e}, users {users}; try a lower --lr", 1)
        if s.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def targets(self, rows) -> int:
        """Number of items that some samples predict."""
        return int(self.train_samples.length[rows].sum()) if self.causal else len(rows)

    def rank(self, samples, title: str, last: int = 1) -> list[Ranking]:
        """Rank the samples' targets and, with `last` 2, the items before them from the same passes."""
        self.model.eval()
        score, size = partial(self.model.scores, last=last), self.settings.eval_batch_size
        check = partial(self.signals.check, self.folder)
        return rank_newest(score, self.data, samples, size, self.device, title, check)

    def validate_epoch(self) -> None:
        """Rank all validation targets, record the epoch, keep the adapter when it is the best so far."""
        progress, samples = self.progress, self.data.validation()
        ranking = self.rank(samples, "validation")[0]
        result = metrics(ranking.seen_kept)
        record = {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / progress.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": progress.seconds,
            "samples_per_s": progress.samples / progress.seconds,
            "val": result,
            "val_unseen": metrics(ranking.seen_removed),
        }
        progress.records.append(record)
        better = result[CHOOSE_BY] > progress.best_score
        if better:
            progress.best_epoch, progress.best_score = progress.epoch, result[CHOOSE_BY]
            save_adapter(self.model, self.best_adapter)
        self.log.say(
            f"epoch {progress.epoch:3d}  loss {record['train_loss']:.4f}  {record['seconds']:.0f} s  "
            f"{record['samples_per_s']:.0f} samples/s  validation {summary(result)}{'  best' if better else ''}"
        )

    def test(self) -> None:
        """Test the adapter that validated best, once, and log every figure."""
        progress, samples = self.progress, self.data.test()
        load_adapter(self.model, self.best_adapter)
        ranking, *validation = self.rank(samples, "test", last=2 if self.causal else 1)
        popularity = rank_by_popularity(self.data, samples)
        record = {
            "best_epoch": progress.best_epoch,
            "test": metrics(ranking.seen_kept),
            "test_unseen": metrics(ranking.seen_removed),
            "popularity": metrics(popularity.seen_kept),
            "users": len(samples),
            "users_per_s": ranking.users_per_s,
        }
        if validation:  # of the tested weights, from the same passes
            record["val"] = metrics(validation[0].seen_kept)
        self.log.say(
            f"best epoch {progress.best_epoch}, tested on {len(samples):,} users, {ranking.users_per_s:.0f} users/s"
        )
        for name, title in (
            ("test", "test (all items ranked)"),
            ("test_unseen", "test (history removed)"),
            ("popularity", "popularity baseline"),
        ):
            self.log.say(f"{title:<24} {summary(record[name])}")
        for name, value in record["test"].items():
            self.log.say(f"  test {name} {value:.6f}")
        self.log.write([*progress.records, record])


def prepare(settings: Settings) -> Trainer:
    """Read everything that a run needs; whatever is wrong with it shows here, before anything is written."""
    ensure_model_parallel()
    if mp_size() > 1 and settings.max_grad_norm:
        raise ValueError("--max_grad_norm: gradients are clipped in one process only; leave it at 0")
    device = pick_device(settings.device)
    if settings.dataset == "Demo":
        from preprocess.demo_data import ensure_demo

        with main_first():
            ensure_demo(settings.data_dir, settings.output_dir, settings.logging_dir)
    data, tables = read_inputs(settings)
    seed_everything(settings.seed)
    model = build_model(settings, tables, device)
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    log_folder = Path(settings.logging_dir) / settings.dataset / settings.GNNModel
    log = RunLog(log_folder, settings.target, f"HeLLM/{settings.dataset}", quiet=not is_main())
    trainer = Trainer(settings, model, data, log, folder)
    if settings.resume:
        trainer.resume()
    return trainer


def print_plan(settings: Settings) -> None:
    """Sizes and costs from the interaction file and the model's shape alone."""
    names = required_files(settings.dataset, settings.GNNModel)
    folder = check_files(settings.data_dir, settings.dataset, names[:1])
    widths = [
        load_file(folder / name, mapped=True).shape[1] if (folder / name).is_file() else plan.PUBLISHED_WIDTH
        for name in names[1:]
    ]
    ensure_model_parallel()
    dtype = number_format(settings, torch.device("cuda"))  # the plan is for a GPU, wherever it is printed
    data = Interactions(folder / names[0], settings.max_len)
    sizes = (settings.batch_size, settings.grad_steps, settings.num_epochs)
    print(plan.describe(model_args(settings), data, widths, LENGTHS[settings.prompt], *sizes, dtype))


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    settings = parse_args(argv)
    try:
        if settings.plan:
            print_plan(settings)
            return 0
        trainer = prepare(settings)
    except (ValueError, OSError) as mistake:
        return complain(mistake)
    trainer.signals.listen()
    shown = {name: value for name, value in vars(settings).items() if value != getattr(Settings(), name)}
    if not settings.resume:
        trainer.log.clear()
    trainer.log.say(f"settings beside the published ones: {shown}")
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    each = f" (each of {mp_size()} processes)" if mp_size() > 1 else ""
    trainer.log.say(f"trainable params: {trained:,} || all params: {total:,}{each}")
    try:
        trainer.fit()
        trainer.test()
    except Stopped as stop:
        trainer.log.say(str(stop))
        return stop.status
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there is anything to save
        sys.exit(128 + signal.SIGINT)
