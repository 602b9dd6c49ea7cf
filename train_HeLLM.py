"""Fine-tune HeLLM: settings → data → model → train → select on validation → test once.

    python train_HeLLM.py --preset demo
    python train_HeLLM.py --dataset Beauty --model_name PATH/Llama-2-7b [--resume]

Every setting is in config_HeLLM.py and is a flag of the same name. Where things live:

    settings, presets     config_HeLLM.py
    data, batches         utils/data/interactions.py, utils/data/batches.py
    model                 llama/HeLLM.py on llama/model.py, put together by utils/training/build.py
    epochs, checkpoints   utils/training/loop.py, utils/training/checkpoints.py
    ranking, metrics      utils/evaluation
    log, records, curves  utils/logs
    --plan, --max_memory  utils/planning
    --sweep               utils/sweep
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from config_HeLLM import Settings, non_default_settings, run_fingerprint
from llama import parallel
from llama.HeLLM import HeLLM
from preprocess.demo_data import ensure_demo_data
from utils.cli.errors import report_user_error
from utils.data.batches import collate, split_microbatches, training_batches
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions, Samples
from utils.data.layout import required_files
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import Ranking, evaluate_ranking, rank_by_popularity
from utils.logs.records import SELECTION_METRIC, FinalRecord
from utils.logs.run_log import RunLog, log_folder
from utils.planning import batch_size, plan, simulation
from utils.runtime import distributed, memory, seed
from utils.runtime.signals import SignalFlag, StopTraining
from utils.sweep.command import parse_command
from utils.sweep.runner import run_sweep
from utils.training import adapter_file, build
from utils.training.checkpoints import BEST_ADAPTER, CheckpointManager, Progress, run_folder
from utils.training.loop import LoopSettings, TrainingLoop, run_to_end
from utils.training.prompt import prompt_positions_per_row
from utils.training.schedule import learning_rate

# ---------------------------------------------------------------- setup


@dataclass
class FineTuning:
    """One run: the task that the training loop works on.

    Every rank of a distributed job holds one and makes the same calls in the same order.
    """

    settings: Settings
    device: torch.device
    data: Interactions
    samples: Samples  # to train on
    checksums: dict[str, str]  # of the data files
    model: HeLLM
    optimizer: torch.optim.AdamW
    log: RunLog
    checkpoints: CheckpointManager
    selection_metric: str = SELECTION_METRIC

    # ------------------------------------------------------------ one optimizer step

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the sample indices of every optimizer step of an epoch."""
        s = self.settings
        size, tokens = s.batch_size * s.grad_steps, s.tokens_per_batch * s.grad_steps
        prompt = prompt_positions_per_row(s.objective, s.prompt)
        return training_batches(self.samples.length, size, s.seed, epoch, tokens, prompt)

    def n_samples(self, batch: np.ndarray) -> int:
        """Return the number of targets in a batch."""
        return self.samples.n_targets(batch)

    def users(self, batch: np.ndarray) -> list[int]:
        """Return the users of a batch."""
        return self.samples.user[batch].tolist()

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate after so many epochs."""
        s = self.settings
        return learning_rate(epoch, s.lr, s.min_lr, s.warmup_epochs, s.num_epochs)

    def backward(self, batch: np.ndarray, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of one optimizer step: micro-batches, all-reduce, clipping.

        Every replica of the model takes its share of the samples; loss and gradients are those of all of them.

        Returns: mean loss in nats and gradient norm before clipping, float64 scalars on the device.
        """
        s = self.settings
        # Dropout is seeded per (epoch, step, replica), so a checkpoint can be resumed on any number of replicas
        seed.seed_at(s.seed, epoch, step, parallel.dp_rank())

        # With fewer samples than replicas, run one sample with weight 0: all replicas need gradients to all-reduce
        has_no_samples = parallel.dp_rank() >= len(batch)
        local_idx = batch[:1] if has_no_samples else batch[parallel.dp_rank() :: parallel.dp_size()]

        n_targets = self.n_samples(batch)
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        prompt = prompt_positions_per_row(s.objective, s.prompt)
        for part in split_microbatches(local_idx, self.samples.length, s.batch_size, s.tokens_per_batch, prompt):
            inputs = collate(self.data, self.samples, part, self.model.padding).to(self.device)
            weight = 0 if has_no_samples else self.n_samples(part) / n_targets
            loss = self.model.loss(*inputs, self.n_samples(part)) * weight
            loss.backward()
            total_loss += loss.detach()

        parallel.all_reduce_gradients(self.model.parameters())
        parallel.all_reduce_data_parallel(total_loss)
        grad_norm = parallel.clip_grad_norm(self.model, s.max_grad_norm)
        return total_loss, grad_norm.double()

    # ------------------------------------------------------------ validation and test

    def evaluate(self, samples: Samples, check_signals: Callable[[], None]) -> Ranking:
        """Rank all items for every user of a split; every replica ranks its share of the users."""
        self.model.eval()
        size = self.settings.eval_batch_size
        return evaluate_ranking(
            self.model, self.data, samples, size, self.device, self.model.padding, check_signals, distributed=True
        )

    def validate(self, check_signals: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Return the validation metrics: all items ranked, and without those of the history."""
        ranking = self.evaluate(self.data.validation(), check_signals)
        return {"val": ranking_metrics(ranking.seen_kept), "val_unseen": ranking_metrics(ranking.seen_removed)}

    def save_best(self) -> None:
        """Write the adapter of the best epoch so far; one replica does."""
        if parallel.dp_rank() == 0:
            adapter_file.save_adapter(self.model, self.checkpoints.best)

    def test(self, progress: Progress, check_signals: Callable[[], None]) -> None:
        """Test the adapter that validated best, once; write the test record and every user's rank."""
        adapter_file.load_adapter(self.model, self.checkpoints.best)
        samples = self.data.test()
        ranking = self.evaluate(samples, check_signals)
        popularity = rank_by_popularity(self.data, samples)
        record = FinalRecord(
            best_epoch=progress.best_epoch,
            test=ranking_metrics(ranking.seen_kept),
            test_unseen=ranking_metrics(ranking.seen_removed),
            popularity=ranking_metrics(popularity.seen_kept),
            users=len(samples),
            users_per_s=ranking.users_per_s,
            settings=non_default_settings(self.settings),
            files=self.checksums,
            peak_memory_bytes=memory.peak_memory(self.device),
        )
        self.log.log_test(record)
        self.log.write_final(progress.records, record, ranking)


def setup_run(settings: Settings, base_cache: dict | None = None) -> FineTuning:
    """Build everything that a run needs.

    What can be refused is refused here, before any file is written.

    Args:
        settings: of the run.
        base_cache: where the runs of a sweep share a frozen base, see `build_model`.

    Raises:
        ValueError, OSError: settings, data or weights that cannot be used.
    """
    # Devices and ranks
    if settings.deterministic:
        seed.make_deterministic()
    distributed.init_processes(settings.model_parallel, settings.model_name)
    device = distributed.resolve_device(settings.device)

    # Data; --max_memory may shrink the micro-batches, but not the optimizer step
    ensure_demo_data(settings)
    data, embeddings = build.load_data(settings)
    if settings.max_memory:
        settings = batch_size.fit_batch_sizes(settings, simulation.simulate(settings, data, embeddings, device))
    names = required_files(settings.dataset, settings.GNNModel)
    checksums = input_checksums(map(data.path.with_name, names))

    # Model and optimizer
    seed.seed_everything(settings.seed)
    model = build.build_model(settings, embeddings, device, base_cache)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.lr, betas=(0.9, 0.95), weight_decay=settings.wd, fused=True)

    # What the run writes
    logs = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel)
    log = RunLog(logs, settings.target, f"HeLLM/{settings.dataset}", quiet=not distributed.is_main())
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    checkpoints = CheckpointManager(
        folder=folder,
        best=folder / BEST_ADAPTER,
        log=log,
        fingerprint=run_fingerprint(settings) | checksums,
        tensors=adapter_file.adapter_parameters(model),
        optimizer=optimizer,
        shard_dims=parallel.shard_dims(model),
    )
    samples = data.training_samples(settings.objective)
    return FineTuning(settings, device, data, samples, checksums, model, optimizer, log, checkpoints)


# ---------------------------------------------------------------- one run


def training_loop(run: FineTuning, signals: SignalFlag | None = None) -> TrainingLoop:
    """Return the loop that trains a run."""
    settings = LoopSettings(
        num_epochs=run.settings.num_epochs,
        patience=run.settings.patience,
        save_every_minutes=run.settings.save_every_minutes,
        log_every=run.settings.log_every,
        save_before_validation=True,
    )
    return TrainingLoop(run, settings, signals)


def run_one(settings: Settings, base_cache: dict | None = None, signals: SignalFlag | None = None) -> int:
    """Train and test one configuration; return the exit status.

    Args:
        settings: of the run.
        base_cache: where the runs of a sweep share a frozen base.
        signals: where a sweep looks for a signal that came too late to stop the run.

    Raises:
        ValueError, OSError: the run cannot start, and no file was changed; or, DiskFullError, the disk is full.
    """
    with memory.explain_out_of_memory():
        run = setup_run(settings, base_cache)
    loop = training_loop(run, signals)
    with run.checkpoints.lock():  # refuses a second run here
        progress = run.checkpoints.restore() if settings.resume else run.checkpoints.reset()
        return run_to_end(lambda: train_and_test(run, loop, progress), run.log)


def train_and_test(run: FineTuning, loop: TrainingLoop, progress: Progress) -> None:
    """Train from `progress` to the end, then test the best epoch.

    Raises:
        StopTraining: a signal, a non-finite loss, or no memory; the state is saved where that is possible.
    """
    loop.signals.install()
    for line in plan.run_header(run.settings, run.model):
        run.log.info(line)
    try:
        loop.run(progress)
        run.test(progress, loop.check_signals)
        return
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
    # Only out here has the error let go of the tensors of the failed pass
    raise stop_out_of_memory(run, loop)


def stop_out_of_memory(run: FineTuning, loop: TrainingLoop) -> StopTraining:
    """Save what can be saved after memory ran out; return how the run ends, with a batch size that should fit."""
    saved = loop.save_after_failure()
    resume = f"state saved in {run.checkpoints.folder}, resume with --resume" if saved else "no state to resume from"
    phase = "training" if run.model.training else "scoring"
    advice = batch_size.suggest_batch_size(run.settings, run.data, run.model, run.device)
    return StopTraining(f"out of memory in {phase}: {resume}; {advice}", 1)


# ---------------------------------------------------------------- command line


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    try:
        command = parse_command(argv)
        if command.sweep:
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
