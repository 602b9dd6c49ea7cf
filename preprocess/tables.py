"""Both embedding tables that fine-tuning reads, and the features under them, by one command.

    python -m preprocess.tables --dataset Mine

Runs, with settings for a CPU, what has not left its file yet: `preprocess.features text` where there is an
`item_text.tsv`, `preprocess.features image` by colours where there are `pictures/`, `preprocess.pretrain_graph` (no
item hypergraph where there are no features) and `preprocess.pretrain_sasrec`. Texts or pictures in which nothing tells
items apart are left out, with the reason. Every command is printed; one that was run by hand before, with other flags,
is not run again; what was made from another interaction file is refused. A killed run goes on with the same command.
"""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from preprocess import features, pretrain_graph, pretrain_sasrec
from preprocess.pretraining.hypergraph import find_features
from preprocess.pretraining.trainer import PretrainSettings
from preprocess.raw.item_files import ITEM_TEXT_FILE, UninformativeModalityError
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_choices_and_names
from utils.data.input_files import changed_inputs
from utils.data.layout import require_files
from utils.evaluation.metrics import format_headline_metrics
from utils.logs.run_log import RunLog
from utils.runtime.lock import run_lock
from utils.training.checkpoints import STATE, read_checkpoint, run_folder

# What does best on Beauty on two cores (README.md); the published settings ask for a GPU
GRAPH_FLAGS = "--User_layers 1 --item_loss_ratio 0.3 --topk 7 --batch_size 4096 --lr 4e-4 --contrastive_anchors 256"


@dataclass(frozen=True)
class TableSettings:
    """Where the files lie; a comment a field, shown by --help."""

    dataset: str = "Mine"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/, where everything goes
    GNNModel: str = "MMHCL"  # graph-embedding files: MMHCL or LightGCN
    output_dir: str = "output"  # best models and training states
    logging_dir: str = "log"  # logs, metrics and curves


def validate_settings(settings: TableSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    return check_choices_and_names(settings, {"GNNModel": ("MMHCL", "LightGCN")}, ("dataset",))


class Pipeline:
    """Programs that are run where their file is absent, and told of in LOGGING_DIR/DATASET/stages_log.txt.

    Args:
        folder: where the files lie; logs: where programs leave NAME/pretrain_metrics.jsonl.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder, self.logs, self.log = folder, logs, RunLog(logs, "stages", folder.name)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Keep other processes from the log, and so from the files, while the block goes on.

        Raises:
            ValueError: another one is there.
        """
        with run_lock(self.log.stem, "_", "--logging_dir") as gone:
            if gone:
                self.log.info(gone)
            yield

    def encode(self, modality: str, argv: list[str]) -> None:
        """Run preprocess.features, unless its file is there; what tells no items apart is told and left out."""
        try:
            self.run([f"{modality}_feat.npy"], features, [modality, *argv], main=features.run)
        except UninformativeModalityError as reason:
            self.log.info(f"{modality} left out: {reason}")

    def run(
        self,
        made: list[str],
        program: ModuleType,
        argv: list[str],
        metrics: str = "",
        main: Callable[[list[str]], int] | None = None,
    ) -> None:
        """Run a program, unless the last file that it makes is there; a mistake ends this program, too.

        Args:
            metrics: name of its folder in the logs, if it tests what it makes; main: what is called, if not its own.
        """
        if (self.folder / made[-1]).exists():
            return
        self.log.info(f"python -m {program.__name__} {shlex.join(argv)}")
        status = (main or program.main)(argv)
        if status:
            sys.exit(status)
        lines = (self.logs / metrics / "pretrain_metrics.jsonl").read_text().splitlines() if metrics else []
        tested = f"; test {format_headline_metrics(json.loads(lines[-1])['test'])}" if lines else ""
        self.log.info(f"{program.__name__}: {', '.join(str(self.folder / name) for name in made)}{tested}")


def check_origin(data: Path, made_by: dict[Path, list[str]]) -> None:
    """See that no pre-training was run on another interaction file.

    Args:
        data: the interaction file; made_by: folder of a pre-training's run to the tables that it makes beside `data`.

    Raises:
        ValueError: one was; names its folder, the tables, and the features that it read and that are still the same.
    """
    files, old = [data, *find_features(data.parent)], []
    for run, names in made_by.items():
        try:
            recorded = read_checkpoint(run / STATE)["settings"]
        except (FileNotFoundError, ValueError):  # nothing is known; who goes on from a damaged one is told
            continue
        others = changed_inputs(recorded, files)
        if data in others:
            old += [run, *(path for path in map(data.with_name, names) if path.exists())]
            old += [path for path in files if path not in others]
    if old:
        told = ", ".join(map(str, old))
        raise ValueError(
            f"{told}: made from another {data.name}; remove them, or give the new data another --dataset name"
        )


def make_tables(settings: TableSettings, graph_flags: str = GRAPH_FLAGS, sequence_flags: str = "") -> None:
    """Make what is absent.

    Raises:
        FileNotFoundError: no interaction file; ValueError: there is what was made from another one, or another process
            is at this.
    """
    s = settings
    folder = require_files(s.data_dir, s.dataset, [f"{s.dataset}.txt"])
    graph_tables = pretrain_graph.table_names(s.GNNModel)
    made_by = {s.GNNModel: graph_tables, "SASRec": [pretrain_sasrec.EMBEDDING_FILE]}
    runs = {run_folder(s.output_dir, s.dataset, name, PretrainSettings.target): made for name, made in made_by.items()}
    check_origin(folder / f"{s.dataset}.txt", runs)
    stages = Pipeline(folder, Path(s.logging_dir) / s.dataset)
    place = ["--dataset", s.dataset, "--data_dir", s.data_dir]
    shared = [*place, "--output_dir", s.output_dir, "--logging_dir", s.logging_dir, "--resume"]
    with stages.begun():
        if (folder / ITEM_TEXT_FILE).is_file():
            stages.encode("text", place)
        if (folder / "pictures").is_dir():
            stages.encode("image", [*place, "--encoder", "histogram"])
        argv = [*shared, "--GNNModel", s.GNNModel, *graph_flags.split()]
        argv += ["--item_loss_ratio", "0"] * (not find_features(folder))
        stages.run(graph_tables, pretrain_graph, argv, s.GNNModel)
        stages.run([pretrain_sasrec.EMBEDDING_FILE], pretrain_sasrec, [*shared, *sequence_flags.split()], "SASRec")


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    what = "Make the tables that fine-tuning reads."
    settings = parse_settings(TableSettings, argv, "python -m preprocess.tables", what, validate_settings)
    return run_program(make_tables, settings)


if __name__ == "__main__":
    sys.exit(main())
