"""The paper's ablations: a run with everything, and one without each part."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from config_HeLLM import Settings
from preprocess.pretrain_graph import GraphSettings, table_names
from preprocess.pretrain_graph import parse_args as parse_graph_args
from preprocess.pretraining.hypergraph import find_features
from preprocess.pretraining.trainer import PRETRAIN_IGNORED_ON_RESUME
from utils.cli.flags import format_flag
from utils.cli.restored import diff_settings, fingerprint, restore_settings
from utils.data.layout import dataset_folder
from utils.logs.run_log import log_folder, read_settings
from utils.sweep.grid import SweepRun
from utils.training.build import model_args

# In the table's order: part to the setting without it, or to what is done to the pre-training of the graph table
ABLATIONS = {
    "U2U": {"user_loss_ratio": 0.0},
    "I2I": {"item_loss_ratio": 0.0, "features": ()},
    "graph adapter": "graph_adapter",
    "prefix": "prefix_adapter",
    "LoRA": "w_lora",
    "sequence input": "seq_input",
    "text": ("text", "words"),  # how names of its modalities begin
    "pictures": ("image",),
}


@dataclass(frozen=True)
class PretrainingRecord:
    """What graph tables were made by."""

    settings: GraphSettings  # `features` are the modalities read
    files: dict[str, str]  # read, as in `files_read`; none where nobody knows
    known: bool  # by a log, not guessed

    def changed(self, change: dict) -> "PretrainingRecord":
        """With some settings changed, and the files of the modalities that are left."""
        settings = replace(self.settings, **change)
        left = {f"CRC-32 of {name}_feat" for name in settings.features}
        files = {what: crc for what, crc in self.files.items() if "_feat." not in what or Path(what).stem in left}
        return PretrainingRecord(settings, files, self.known)

    def diff_settings(self, wanted: "PretrainingRecord") -> list[str]:
        """What would have to be otherwise, a phrase each, as far as both are known."""
        if not (self.known and wanted.known):
            return []
        here, there = (fingerprint(one.settings, PRETRAIN_IGNORED_ON_RESUME | {"features"}) for one in (self, wanted))
        if self.files and wanted.files:
            here, there = here | self.files, there | wanted.files
        return diff_settings(here, there)


def ablation_runs(settings: Settings) -> list[SweepRun]:
    """The full run and one without each of PARTS, where the settings and the tables have it.

    A run without a part of the hypergraphs reads tables of its own, `{GNNModel}-no-{part}_item_embeddings.pt`; where
    they are missing, or made otherwise than the full ones, its row says which command makes them.

    Raises:
        FileNotFoundError, ValueError: base weights or features that can't be read.
    """
    full = recorded_pretraining(settings)
    rows = [SweepRun("HeLLM", replace(settings, target=f"{settings.target}-ablation", resume=True))]
    for part, change in ABLATIONS.items():
        without = f"no-{part.replace(' ', '-')}"
        start = replace(rows[0].settings, target=f"{rows[0].settings.target}-{without}")
        if isinstance(change, str):
            rows.append(disable_switch(f"w/o {part}", start, change))
        else:
            start = replace(start, GNNModel=f"{settings.GNNModel}-{without}")
            rows.append(use_other_tables(f"w/o {part}", start, full, change))
    return rows


def disable_switch(title: str, settings: Settings, switch: str) -> SweepRun:
    """The settings with a part switched off, where it is on and something is left."""
    if not getattr(settings, switch) or (switch in ("graph_adapter", "prefix_adapter") and not settings.w_adapter):
        return SweepRun(title, None, "not part of this preset")
    changed = replace(settings, **{switch: False})
    try:
        model_args(changed)
    except ValueError as mistake:
        return SweepRun(title, None, f"nothing would be left: {mistake}")
    return SweepRun(title, changed)


def use_other_tables(
    title: str, settings: Settings, full: PretrainingRecord, change: dict | tuple[str, ...]
) -> SweepRun:
    """The settings, which name tables of their own, where the full tables have the part and these are there.

    Args:
        full: the pre-training of the full tables.
        change: what is changed of it, or how names of the modalities begin that are left out.
    """
    made, absent = full.settings, SweepRun(title, None, "not part of these graph tables")
    both = made.GNNModel == "MMHCL"
    if isinstance(change, tuple):
        left = tuple(name for name in made.features if not name.startswith(change))
        if left == made.features or not (both and made.item_loss_ratio):
            return absent
        if not left:
            return SweepRun(title, None, "nothing would be left of the item hypergraph: the same as w/o I2I")
        change = {"features": left}
    elif not both or not getattr(made, next(iter(change))):
        return absent
    wanted = full.changed(change)
    path = dataset_folder(settings.data_dir, settings.dataset) / table_names(settings.GNNModel)[1]
    if not path.is_file():
        command = graph_command(settings, wanted.settings)
        return SweepRun(title, None, "no such graph tables", f"{path} is missing; make it: {command}")
    differ = recorded_pretraining(settings).diff_settings(wanted)
    if differ:
        command = graph_command(settings, replace(wanted.settings, overwrite=True))
        what = f"{path}: made otherwise than the full tables: {'; '.join(differ)}; make it anew: {command}"
        return SweepRun(title, None, "graph tables of another pre-training", what)
    return SweepRun(title, settings)


def recorded_pretraining(settings: Settings) -> PretrainingRecord:
    """The pre-training behind a run's graph tables as its log tells it; the published one where there is no log.

    Where no log says which modalities it read, they are those asked for, or else all whose files are there.
    """
    argv = ["--dataset", settings.dataset] + ["--GNNModel", "LightGCN"] * (settings.GNNModel == "LightGCN")
    published = parse_graph_args(argv)
    logs = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel)
    log = logs / f"{published.target}_log.txt"
    told = read_settings(log)[1] if log.is_file() else {}
    made = restore_settings(GraphSettings, vars(published) | told, log)
    files = {what: crc for what, crc in told.items() if what.startswith("CRC-32 of ")}
    read = [Path(what.removeprefix("CRC-32 of ")) for what in files]
    if not files and not made.features:
        read = find_features(dataset_folder(settings.data_dir, settings.dataset))
    names = tuple(path.stem.removesuffix("_feat") for path in read if path.stem.endswith("_feat"))
    return PretrainingRecord(replace(made, features=names or made.features), files, bool(told))


def graph_command(settings: Settings, wanted: GraphSettings) -> str:
    """The command line that makes the tables which `settings` name."""
    places = {name: getattr(settings, name) for name in ("data_dir", "output_dir", "logging_dir")}
    wanted = replace(wanted, tables=settings.GNNModel, **places)
    published = vars(parse_graph_args(["--dataset", settings.dataset]))
    flags = [format_flag(name, value) for name, value in vars(wanted).items() if value != published[name]]
    return shlex.join(["python", "-m", "preprocess.pretrain_graph", "--dataset", settings.dataset, *flags])
