"""Fine-tune HeLLM: settings → data → model → train → select on validation → test once.

    python train_HeLLM.py --preset demo
    python train_HeLLM.py --dataset Beauty --model_name PATH/Llama-2-7b [--resume]

Every setting is in config_HeLLM.py and is a flag of the same name. Where things live:

    settings, presets       config_HeLLM.py
    interactions, samples   utils/data/interactions.py
    batches                 utils/data/batches.py, utils/training/sample_batches.py
    model                   llama/HeLLM.py on llama/model.py, put together by utils/training/build.py
    epochs, early stopping  utils/training/loop.py
    checkpoints             utils/training/checkpoints.py
    ranking, metrics        utils/evaluation
    log, records, curves    utils/logs
    --plan, --max_memory    utils/planning
    --sweep                 utils/sweep
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from utils.sweep.command import parse_command

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_command()

import numpy as np
import torch
from torch import Tensor

from config_HeLLM import Settings, non_default_settings
from llama import parallel
from llama.HeLLM import HeLLM
from preprocess.demo_data import ensure_demo_data
from utils.cli.errors import report_user_error
from utils.data import interactions
from utils.evaluation import metrics, ranking
from utils.logs import records, run_log
from utils.planning import batch_size, plan
from utils.runtime import distributed, memory, seed
from utils.runtime.signals import SignalFlag
from utils.sweep.runner import run_sweep
from utils.training import adapter_file, build, distillation, provenance
from utils.training.checkpoints import CheckpointManager, Progress
from utils.training.loop import LoopSettings, TrainingLoop
from utils.training.sample_batches import ReplicaBatches
from utils.training.schedule import learning_rate

# ---------------------------------------------------------------- a run: what the training loop works on


@dataclass
class FineTuning:
    """One run; implements utils.training.loop.Task. All ranks of a job make the same calls in the same order."""

    settings: Settings
    device: torch.device
    data: interactions.Interactions
    checksums: dict[str, str]  # of the data files
    batches: ReplicaBatches
    model: HeLLM
    optimizer: torch.optim.AdamW
    log: run_log.RunLog
    checkpoints: CheckpointManager
    teacher: distillation.Teacher | None = None

    @property
    def choose_by(self) -> str:
        """The validation metric that decides which epoch is the best."""
        return self.settings.choose_by

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at this (fractional) epoch: linear warm-up, then half a cosine."""
        s = self.settings
        return learning_rate(epoch, s.lr, s.min_lr, s.warmup_epochs, s.num_epochs)

    def backward(self, batch: np.ndarray, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of one optimizer step; the loop calls optimizer.step().

        Returns: mean loss in nats and gradient norm before clipping, float64 scalars on the device.
        """
        # Dropout is seeded per (epoch, step, replica), so a checkpoint can be resumed on any number of replicas
        seed.seed_at(self.settings.seed, epoch, step, parallel.dp_rank())

        # Gradient accumulation: the weights of the micro-batches of all replicas add up to 1
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro_batch, n_targets, weight in self.batches.microbatches(batch, epoch, self.model.padding, self.device):
            samples = (micro_batch.items, micro_batch.mask, micro_batch.targets, n_targets)
            part = self.model.loss(*samples, self.teacher) * weight
            part.backward()
            loss += part.detach()

        # Loss and gradients of all replicas together; clipping needs the norm over the shards of the model, too
        parallel.all_reduce_gradients(self.model.parameters())
        parallel.all_reduce_data_parallel(loss)
        grad_norm = parallel.clip_grad_norm(self.model, self.settings.max_grad_norm)
        return loss, grad_norm.double()

    def evaluate(self, samples: interactions.Samples, check_signals: Callable[[], None]) -> metrics.Ranking:
        """Rank all items for every user of a split; every replica ranks its share of the users."""
        self.model.eval()
        size, padding = self.settings.eval_batch_size, self.model.padding
        return ranking.evaluate_ranking(
            self.model, self.data, samples, size, self.device, padding, check_signals, distributed=True
        )

    def validate(self, check_signals: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Return the validation metrics: all items ranked, and without those of the user's history."""
        return self.evaluate(self.data.validation(), check_signals).validation_metrics()

    def save_best(self) -> None:
        """Write the adapter of the best epoch so far; one replica of the model does."""
        if parallel.dp_rank() == 0:
            adapter_file.save_adapter(self.model, self.checkpoints.best)

    def show_finished(self, progress: Progress) -> bool:
        """Log the test of a run that is resumed after its end; return whether it was tested before."""
        if not self.checkpoints.is_tested(progress):
            return False
        record = self.log.finished_record(progress.records)
        if record:  # on rank 0
            self.log_result(record)
            self.log.log_results([self.checkpoints.best], build.recommend_command(self.settings))
        return True

    def log_result(self, record: records.FinalRecord) -> None:
        """Log the metrics of a test, and which data files are behind them."""
        self.log.log_test(record)
        for entry in provenance.provenance(self.settings, self.checksums):
            self.log.info(entry)

    def test(self, progress: Progress, check_signals: Callable[[], None]) -> None:
        """Test the adapter of the best epoch, once; log and write its metrics and every user's rank."""
        adapter_file.load_adapter(self.model, self.checkpoints.best)
        samples = self.data.test()
        found = self.evaluate(samples, check_signals)
        popularity = ranking.rank_by_popularity(self.data, samples)
        record = records.FinalRecord(
            best_epoch=progress.best_epoch,
            chosen_by=self.choose_by,
            **found.test_metrics(),
            popularity=metrics.ranking_metrics(popularity.seen_kept),
            users=len(samples),
            users_per_s=found.users_per_s,
            settings=non_default_settings(self.settings),
            files=self.checksums,
            peak_memory_bytes=memory.peak_memory(self.device),
        )
        self.log_result(record)
        self.log.write_final(progress.records, record, found)
        self.log.log_results([self.checkpoints.best], build.recommend_command(self.settings))


# ---------------------------------------------------------------- setup


def setup_run(settings: Settings, base_cache: dict | None = None) -> FineTuning:
    """Build everything that a run needs; refuse invalid settings, data and weights before the run writes any file.

    Only the demo writes files here: those of its dataset and embeddings that are absent.

    Args:
        settings: settings of the run.
        base_cache: shares a frozen base among the runs of a sweep, see `build_model`.

    Raises:
        ValueError, OSError: settings, data or weights that cannot be used.
    """
    # Devices and ranks: torchrun's processes become replicas of the model, or shards of one
    if settings.deterministic:
        seed.make_deterministic()
    distributed.init_processes(settings.model_parallel, settings.model_name)
    device = distributed.resolve_device(settings.device)

    # Data: interactions, and the embeddings of the pre-trainings; the demo's are generated if absent
    ensure_demo_data(settings)
    data, embeddings = build.load_data(settings)
    checksums = build.data_checksums(settings)

    # Teacher: finished runs whose scores are part of the targets, if there are any
    teacher = distillation.load_teacher(settings, device)
    teacher_checksums = {} if teacher is None else teacher.checksums

    # --max_memory may shrink the micro-batches, but not the optimizer step
    settings = batch_size.fit_to_max_memory(settings, data, embeddings, device)

    # Model: LLaMA from its files or at random, and on it everything that is trained
    seed.seed_everything(settings.seed)
    model = build.build_model(settings, embeddings, device, base_cache)

    # Optimizer: fused, because the guard against non-finite numbers needs a step that can be skipped on the device
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.lr, betas=(0.9, 0.95), weight_decay=settings.wd, fused=True)

    # Objects that will write the run's files; nothing is written yet
    log = build.open_log(settings)
    checkpoints = build.open_checkpoints(settings, model, optimizer, log, checksums | teacher_checksums)
    batches = ReplicaBatches(settings, data)
    return FineTuning(settings, device, data, checksums, batches, model, optimizer, log, checkpoints, teacher)


def training_loop(run: FineTuning, signals: SignalFlag | None = None) -> TrainingLoop:
    """Return the loop that trains a run."""
    s = run.settings
    limits = LoopSettings(
        num_epochs=s.num_epochs,
        patience=s.patience,
        save_every_minutes=s.save_every_minutes,
        log_every=s.log_every,
        log_every_seconds=s.log_every_seconds,
        save_before_validation=True,
    )
    return TrainingLoop(run, limits, signals)


# ---------------------------------------------------------------- from start to end


def run_one(settings: Settings, base_cache: dict | None = None, signals: SignalFlag | None = None) -> int:
    """Train and test one configuration; return the exit status.

    Args:
        settings: settings of the run.
        base_cache: shares a frozen base among the runs of a sweep.
        signals: set by signal handlers; a sweep checks them after the run.

    Raises:
        ValueError, OSError: the run cannot start, and its files are unchanged; or, DiskFullError, the disk is full.
    """
    build.refuse_replacing(settings)
    with memory.explain_out_of_memory():
        run = setup_run(settings, base_cache)
    if base_cache is not None:
        run.log.leave_screen()  # of a sweep, the screen shows a few lines per run
    loop = training_loop(run, signals)

    # The lock refuses a second run at the same files; it ends with the process, however that ends
    with run.checkpoints.lock():
        progress = run.checkpoints.begin(settings.resume, settings.may_overwrite)
        return loop.run_to_end(lambda: train_and_test(run, loop, progress))


def train_and_test(run: FineTuning, loop: TrainingLoop, progress: Progress) -> None:
    """Train from `progress` to the end, then test the best epoch.

    Raises:
        StopTraining: a signal, a non-finite loss, or no memory; a checkpoint is saved where possible.
    """
    # From here on a signal stops the run where a checkpoint can be saved
    loop.signals.install()
    run.log.write_settings(run.settings)
    run.log.record(run_log.settings_line(run_log.NON_DEFAULT_SETTINGS, non_default_settings(run.settings)))
    for line in plan.run_header(run.settings, run.model):
        run.log.info(line)
    for line in build.feature_notes(run.settings, run.data.n_items):
        run.log.info(line)
    try:
        loop.run(progress)
        if not run.show_finished(progress):
            run.test(progress, loop.check_signals)
        return
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
    # Outside the except block, where no traceback keeps the tensors of the failed pass alive any more
    raise loop.stop_out_of_memory(lambda: batch_size.suggest_batch_size(run.settings, run.data, run.model, run.device))


# ---------------------------------------------------------------- command line


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status: 0, 1 for a failed run, 2 for a user's error, 128 + a signal's number."""
    try:
        command = parse_command(argv)
        if command.is_sweep:
            return run_sweep(command, run_one)
        if command.settings.plan:
            plan.print_plan(command.settings)
            return 0
        return run_one(command.settings)
    except (ValueError, OSError) as error:
        return report_user_error(error)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there is anything to save
        sys.exit(128 + signal.SIGINT)
