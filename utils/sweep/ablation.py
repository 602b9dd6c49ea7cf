"""The paper's ablations: the full model, and one run without each part."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from config_HeLLM import Settings
from preprocess.pretraining.graph_settings import GraphSettings, table_names
from preprocess.pretraining.graph_settings import parse_args as parse_graph_args
from preprocess.pretraining.settings import PRETRAIN_IGNORED_ON_RESUME
from utils.cli.flags import format_flag
from utils.cli.restored import diff_settings, fingerprint, restore_settings
from utils.data.features import find_features
from utils.data.input_files import CHECKSUM
from utils.data.layout import dataset_folder
from utils.logs.run_log import log_folder, read_settings
from utils.sweep.grid import SweepRun
from utils.training.build import feature_files, model_args


@dataclass(frozen=True)
class Ablation:
    """A part of the model, and one way to leave it out: by fine-tuning or by the pre-training of the graph tables."""

    part: str
    switch: str = ""  # the fine-tuning setting to turn off
    pretraining: dict | None = None  # pre-training settings to change; the first is 0 if the part is not there
    modalities: tuple[str, ...] = ()  # prefixes of the item features to leave out of pre-training


ABLATIONS = (
    Ablation("U2U", pretraining={"user_loss_ratio": 0.0}),
    Ablation("I2I", pretraining={"item_loss_ratio": 0.0, "features": ()}),
    Ablation("graph adapter", switch="graph_adapter"),
    Ablation("prefix", switch="prefix_adapter"),
    Ablation("LoRA", switch="w_lora"),
    Ablation("sequence input", switch="seq_input"),
    Ablation("feature input", switch="feature_input"),
    Ablation("text", modalities=("text", "words")),
    Ablation("pictures", modalities=("image",)),
)


class LeftOutError(Exception):
    """A part that can't be ablated, and how it could be."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def ablation_runs(settings: Settings) -> list[SweepRun]:
    """Return the full run and one without each part, or the reason why it is left out.

    A run without a part of the hypergraphs reads its own tables, `{GNNModel}-no-{part}_item_embeddings.pt`. If they
    are missing, or differ from the full ones in more than the part, the remedy is the command that makes them.

    Raises:
        FileNotFoundError, ValueError: unreadable base weights, features or logs.
    """
    full_pretraining = recorded_pretraining(settings)
    full = replace(settings, target=f"{settings.target}-ablation", resume=True)
    runs = [SweepRun("HeLLM", full)]
    for ablation in ABLATIONS:
        name = f"no-{ablation.part.replace(' ', '-')}"
        title = f"w/o {ablation.part}"
        ablated = replace(full, target=f"{full.target}-{name}")
        try:
            if ablation.switch:
                ablated = disable_switch(ablated, ablation.switch)
            else:
                ablated = replace(ablated, GNNModel=f"{full.GNNModel}-{name}")
                require_tables(ablated, full_pretraining.without(ablation))
                ablated = drop_features(ablated, ablation.modalities)
            runs.append(SweepRun(title, ablated))
        except LeftOutError as error:
            runs.append(SweepRun(title, None, error.reason, error.remedy))
    return runs


# ---------------------------------------------------------------- parts of fine-tuning


def disable_switch(settings: Settings, switch: str) -> Settings:
    """Return the settings with a switch turned off.

    Raises:
        LeftOutError: it is off already, or no model would be left.
    """
    is_adapter_input = switch in ("graph_adapter", "prefix_adapter")
    if not getattr(settings, switch) or (is_adapter_input and not settings.w_adapter):
        raise LeftOutError("not part of this preset")
    return require_model(replace(settings, **{switch: False}))


def drop_features(settings: Settings, modalities: tuple[str, ...]) -> Settings:
    """Return the settings whose item vectors do not read the features of some modalities.

    Args:
        settings: settings of the run.
        modalities: prefixes of their names.

    Raises:
        LeftOutError: no model would be left.
    """
    if not (settings.feature_input and modalities):
        return settings
    kept = tuple(name for name in feature_files(settings) if not name.startswith(modalities))
    return require_model(replace(settings, features=kept, feature_input=bool(kept)))


def require_model(ablated: Settings) -> Settings:
    """Return the settings if they make a model; raise a LeftOutError if not."""
    try:
        model_args(ablated)
    except ValueError as error:
        raise LeftOutError(f"nothing would be left: {error}") from error
    return ablated


# ---------------------------------------------------------------- parts of the graph tables


@dataclass(frozen=True)
class PretrainingRecord:
    """The pre-training that made graph tables."""

    settings: GraphSettings  # `features` are the modalities that were read
    checksums: dict[str, str]  # of the files that were read, as in the log; empty if unknown
    is_logged: bool  # False if the settings are only the published ones

    def without(self, ablation: Ablation) -> "PretrainingRecord":
        """Return the pre-training that leaves a part out.

        Raises:
            LeftOutError: the tables do not have the part, or nothing else.
        """
        absent = LeftOutError("not part of these graph tables")
        made = self.settings
        if made.GNNModel != "MMHCL":  # without hypergraphs
            raise absent
        if ablation.modalities:
            features = tuple(name for name in made.features if not name.startswith(ablation.modalities))
            if features == made.features or not made.item_loss_ratio:
                raise absent
            if not features:
                raise LeftOutError("nothing would be left of the item hypergraph: the same as w/o I2I")
            changes = {"features": features}
        else:
            changes = ablation.pretraining
            loss_ratio = next(iter(changes))
            if not getattr(made, loss_ratio):
                raise absent
        ablated = replace(made, **changes)
        kept = {f"{CHECKSUM}{name}_feat" for name in ablated.features}
        checksums = {
            name: crc for name, crc in self.checksums.items() if "_feat." not in name or Path(name).stem in kept
        }
        return PretrainingRecord(ablated, checksums, self.is_logged)

    def differences(self, wanted: "PretrainingRecord") -> list[str]:
        """Return how this pre-training differs from the wanted one, as far as logs tell, one phrase each."""
        if not (self.is_logged and wanted.is_logged):
            return []
        ignored = PRETRAIN_IGNORED_ON_RESUME | {"features"}  # checksums tell which features were read
        found = fingerprint(self.settings, ignored)
        expected = fingerprint(wanted.settings, ignored)
        if self.checksums and wanted.checksums:
            found |= self.checksums
            expected |= wanted.checksums
        return diff_settings(found, expected)


def require_tables(settings: Settings, wanted: PretrainingRecord) -> None:
    """Check that the graph tables which the settings name exist and come from the wanted pre-training.

    Raises:
        LeftOutError: they do not; the remedy is the command that makes them. Or the run reads no graph tables.
    """
    if not settings.reads_graph_table:
        raise LeftOutError("not part of this preset")
    path = dataset_folder(settings.data_dir, settings.dataset) / table_names(settings.GNNModel)[1]
    if not path.is_file():
        command = graph_command(settings, wanted.settings)
        raise LeftOutError("no such graph tables", f"{path} is missing; make it: {command}")
    differences = recorded_pretraining(settings).differences(wanted)
    if differences:
        command = graph_command(settings, replace(wanted.settings, overwrite=True))
        found = f"{path}: made otherwise than the full tables: {'; '.join(differences)}"
        raise LeftOutError("graph tables of another pre-training", f"{found}; regenerate it: {command}")


def recorded_pretraining(settings: Settings) -> PretrainingRecord:
    """Return the pre-training of a run's graph tables from its log, or the published one if there is no log.

    If no log lists the features that were read, they are those of --features, or else all that exist.
    """
    argv = ["--dataset", settings.dataset]
    if settings.GNNModel == "LightGCN":
        argv += ["--GNNModel", "LightGCN"]
    published = parse_graph_args(argv)
    log = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel) / f"{published.target}_log.txt"
    recorded = read_settings(log)[1] if log.is_file() else {}
    made = restore_settings(GraphSettings, vars(published) | recorded, log)
    checksums = {name: crc for name, crc in recorded.items() if name.startswith(CHECKSUM)}
    files = [Path(name.removeprefix(CHECKSUM)) for name in checksums]
    if not checksums and not made.features:
        files = find_features(dataset_folder(settings.data_dir, settings.dataset))
    features = tuple(path.stem.removesuffix("_feat") for path in files if path.stem.endswith("_feat"))
    return PretrainingRecord(replace(made, features=features or made.features), checksums, bool(recorded))


def graph_command(settings: Settings, wanted: GraphSettings) -> str:
    """Return the command line that makes the graph tables which the settings name."""
    folders = {name: getattr(settings, name) for name in ("data_dir", "output_dir", "logging_dir")}
    wanted = replace(wanted, tables=settings.GNNModel, **folders)
    published = vars(parse_graph_args(["--dataset", settings.dataset]))
    flags = [format_flag(name, value) for name, value in vars(wanted).items() if value != published[name]]
    return shlex.join(["python", "-m", "preprocess.pretrain_graph", "--dataset", settings.dataset, *flags])
