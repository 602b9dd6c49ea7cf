"""Training, final test and table export, which both pre-trainings share."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama.checkpoint import check_keys_and_shapes
from preprocess.pretraining.settings import PRETRAIN_IGNORED_ON_RESUME, PretrainSettings
from utils.cli.errors import report_user_error
from utils.cli.progress import announce
from utils.cli.restored import fingerprint
from utils.data.input_files import input_checksums
from utils.data.interactions import Interactions
from utils.data.layout import dataset_folder, require_files
from utils.evaluation.metrics import Ranking
from utils.io.torch_files import load_with_checksum, save_with_checksum
from utils.logs.records import FinalRecord
from utils.logs.run_log import SETTINGS, RunLog, log_folder, settings_line
from utils.runtime.distributed import resolve_device
from utils.runtime.memory import explain_out_of_memory, peak_memory
from utils.runtime.seed import seed_everything
from utils.training.checkpoints import CheckpointManager, Progress
from utils.training.loop import Batches, LoopSettings, Task, TrainingLoop
from utils.training.run_files import run_folder

BEST_MODEL = "best_model.pt"  # in the run's folder


def open_training_data(settings: PretrainSettings, max_len: int, tables: list[str]) -> Interactions:
    """Load the interaction file, after a check that the run will not replace tables unasked.

    Args:
        settings: settings of the run.
        max_len: last items of a user that are kept; 0: all.
        tables: names of the files that the run will write.

    Raises:
        FileNotFoundError, ValueError: the file is missing or invalid, or a table exists; names file and line.
    """
    folder = require_files(settings.data_dir, settings.dataset, [f"{settings.dataset}.txt"])
    existing = [str(folder / name) for name in tables if (folder / name).exists()]
    if existing and not (settings.overwrite or settings.resume):
        raise ValueError(f"{', '.join(existing)}: exists already; --overwrite replaces it, another --data_dir keeps it")
    with announce(f"reading {settings.dataset}"):
        return Interactions(folder / f"{settings.dataset}.txt", max_len)


class Pretraining(Task):
    """One pre-training run: the task that the training loop works on, and the tables that it leaves.

    Args:
        settings: settings of the run.
        name: first part of its folders, what is trained (MMHCL, SASRec, …).
        batches: training batches; every epoch has the same number of them.
        model: all of its parameters are trained.
        optimizer: fused optimizer of these parameters.
        choose_by: validation metric that decides which epoch is the best, such as val.NDCG@10.
        files: data files that it is trained on.
        notes: lines about them for the log.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        name: str,
        batches: Batches,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        choose_by: str,
        files: list[Path],
        notes: Iterable[str] = (),
    ) -> None:
        self.settings = settings
        self.notes = notes
        self.batches = batches
        self.model = model
        self.optimizer = optimizer
        self.choose_by = choose_by
        self.checksums = input_checksums(files)
        self.fingerprint = fingerprint(settings, PRETRAIN_IGNORED_ON_RESUME) | self.checksums
        self.parameters = dict(model.named_parameters())
        logs = log_folder(settings.logging_dir, settings.dataset, name)
        self.log = RunLog(logs, settings.target, f"{name}/{settings.dataset}", seed=settings.seed)
        folder = run_folder(settings.output_dir, settings.dataset, name, settings.target)
        self.checkpoints = CheckpointManager(
            folder, folder / BEST_MODEL, self.log, self.fingerprint, self.parameters, optimizer
        )

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch in nats, float scalar."""

    @abstractmethod
    def test(self) -> tuple[dict[str, dict[str, float]], int, Ranking | None]:
        """Return the test metrics by their name in the record, the number of users, and ranks to keep."""

    @abstractmethod
    def tables(self) -> dict[str, Tensor]:
        """Return the embedding tables of the model by file name."""

    def backward(self, batch: Any, _epoch: int, _step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of a batch; return its loss and the gradient norm, scalars on the device."""
        loss = self.loss(batch)
        loss.backward()
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        return loss.detach(), torch.nn.utils.get_total_norm(grads)

    def save_best(self) -> None:
        """Write the parameters of the best epoch so far."""
        save_with_checksum({name: p.detach() for name, p in self.parameters.items()}, self.checkpoints.best)

    @torch.no_grad()
    def load_best(self) -> None:
        """Go back to the parameters of the best epoch, to test them."""
        path = self.checkpoints.best
        saved = load_with_checksum(path)
        check_keys_and_shapes(str(path), set(saved), set(self.parameters), {})
        for name, parameter in self.parameters.items():
            parameter.copy_(saved[name])
        self.model.eval()

    def loop(self) -> TrainingLoop:
        """Return the loop that trains this run."""
        s = self.settings
        return TrainingLoop(self, LoopSettings(s.num_epochs, s.patience, s.save_every_minutes, s.validate_every))

    def train(self, loop: TrainingLoop, progress: Progress) -> None:
        """Train from `progress` to the end, test the best epoch, and write its tables.

        Args:
            loop: the loop, as `loop` returns it.
            progress: where the run stands.

        Raises:
            StopTraining: a signal has come, or a loss or gradient is not finite; a checkpoint is saved.
            DiskFullError: the disk is full.
        """
        loop.signals.install()
        n_parameters = sum(p.numel() for p in self.parameters.values())
        self.log.write_settings(self.settings)
        self.log.record(settings_line(SETTINGS, self.fingerprint))
        for note in self.notes:
            self.log.info(note)
        self.log.info(f"{n_parameters:,} parameters, {len(self.batches.epoch(0)):,} steps per epoch")
        loop.run(progress)
        self.load_best()
        self._finish(progress)

    def _finish(self, progress: Progress) -> None:
        """Write the tables into the dataset's folder and the test metrics into the log."""
        metrics, n_users, ranking = self.test()
        folder = dataset_folder(self.settings.data_dir, self.settings.dataset)
        tables = self.tables()
        for name, table in tables.items():
            save_with_checksum(table.detach().cpu().contiguous(), folder / name)
        record = FinalRecord(
            best_epoch=progress.best_epoch,
            chosen_by=self.choose_by,
            **metrics,
            users=n_users,
            settings=fingerprint(self.settings, PRETRAIN_IGNORED_ON_RESUME),
            files=self.checksums,
            tables=input_checksums(folder / name for name in tables),
            peak_memory_bytes=peak_memory(next(self.model.parameters()).device),
        )
        self.log.log_test(record, with_inputs=False)
        self.log.write_final(progress.records, record, ranking)
        check = ["python", "-m", "preprocess.check", "--dataset", self.settings.dataset]
        if self.settings.data_dir != PretrainSettings.data_dir:
            check += ["--data_dir", self.settings.data_dir]
        self.log.log_results([folder / name for name in tables], check)


def run_pretraining(settings: PretrainSettings, make: Callable[[PretrainSettings, torch.device], Pretraining]) -> int:
    """Run a pre-training program; return its exit status.

    Args:
        settings: settings of the run.
        make: settings and device to the run, with everything read and checked.
    """
    try:
        device = resolve_device(settings.device)
        seed_everything(settings.seed)
        with explain_out_of_memory():
            run = make(settings, device)
        loop = run.loop()
        with run.checkpoints.lock():
            progress = run.checkpoints.begin(settings.resume, settings.overwrite)
            return loop.run_to_end(lambda: run.train(loop, progress))
    except (ValueError, OSError) as error:
        return report_user_error(error)
