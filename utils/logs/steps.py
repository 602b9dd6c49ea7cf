"""The record of a training's steps: `{target}_steps.csv` and, if it is asked for, TensorBoard's files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from utils.io.atomic import atomic_write
from utils.io.disk_full import explain_disk_full

HEADER = "epoch,step,loss,lr,samples_per_s,peak_memory_bytes"
INSTALL_HINT = "pip install -r requirements-extras.txt"


class StepRow(NamedTuple):
    """The optimizer steps since the row before."""

    epoch: int  # counted from 1
    step: int  # the last of them, counted from 1 in its epoch
    loss: float  # their mean, nats
    lr: float  # of the last of them
    samples_per_s: float
    peak_memory_bytes: int | None  # allocated on the GPU, or resident on the CPU, of rank 0


def require_tensorboard() -> None:
    """Raise a ValueError if the package of --tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        raise ValueError(f"--tensorboard: the package tensorboard is not installed; {INSTALL_HINT}")


class StepLog:
    """Append rows to the record of a run, which other processes may read meanwhile.

    Args:
        path: the CSV file; it is made with its first row.
        events: folder for TensorBoard's files; None: there are none.
    """

    def __init__(self, path: Path, events: Path | None = None) -> None:
        self.path = path
        self.events = events
        self._writer: Any = None  # a SummaryWriter, once there is something to write

    def resume(self, epoch: int, step: int) -> None:
        """Remove the rows of steps that a resumed run will take again.

        Args:
            epoch: the epoch of the checkpoint, counted from 1.
            step: its number of steps that are done.
        """
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines[1:] if _position(line) and _position(line) <= (epoch, step)]
        with atomic_write(self.path) as temporary:
            temporary.write_text("\n".join([HEADER, *kept]) + "\n", encoding="utf-8")

    def add(self, row: StepRow, total_steps: int) -> None:
        """Append a row.

        Args:
            row: the row.
            total_steps: steps of all epochs so far, TensorBoard's axis.

        Raises:
            DiskFullError: the disk is full.
        """
        memory = "" if row.peak_memory_bytes is None else row.peak_memory_bytes
        line = f"{row.epoch},{row.step},{row.loss:.6g},{row.lr:.6g},{row.samples_per_s:.1f},{memory}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with explain_disk_full(self.path), self.path.open("a", encoding="utf-8") as file:
            if not file.tell():
                line = f"{HEADER}\n{line}"
            file.write(line + "\n")
        scalars = {"training/loss": row.loss, "training/lr": row.lr, "training/samples_per_s": row.samples_per_s}
        self._write_events(scalars, total_steps)

    def add_validation(self, metrics: dict[str, dict[str, float]], total_steps: int) -> None:
        """Write the metrics of a validation for TensorBoard, by split and name."""
        scalars = {f"{split}/{name}": value for split, values in metrics.items() for name, value in values.items()}
        self._write_events(scalars, total_steps)

    def close(self) -> None:
        """Write what TensorBoard's writer still holds."""
        if self._writer:
            self._writer.close()
        self._writer = None

    def _write_events(self, scalars: dict[str, float], total_steps: int) -> None:
        if self.events is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

            # Events of steps that are taken again are hidden
            self._writer = SummaryWriter(str(self.events), purge_step=total_steps)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, total_steps)


def _position(line: str) -> tuple[int, int] | None:
    """Return epoch and step of a line; None of one that is cut short."""
    cells = line.split(",")
    if len(cells) != len(StepRow._fields) or not (cells[0].isdecimal() and cells[1].isdecimal()):
        return None
    return int(cells[0]), int(cells[1])
