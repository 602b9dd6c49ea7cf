"""The paper's ablations: a run with everything, and one without each part."""

import shlex
from dataclasses import fields, replace

from config_HeLLM import Settings
from preprocess.hypergraph import find_features
from preprocess.pretrain_graph import GraphSettings, table_names
from preprocess.pretrain_graph import parse_args as parse_graph_args
from utils.build import model_args
from utils.data import dataset_folder
from utils.flags import flag
from utils.report import file_of, read_run
from utils.run_log import log_folder
from utils.sweep_grid import Row

# In the table's order: part to the setting without it, or to what is done to the pre-training of the graph table
PARTS = {
    "U2U": {"user_loss_ratio": 0.0},
    "I2I": {"item_loss_ratio": 0.0},
    "graph adapter": "graph_adapter",
    "prefix": "prefix_adapter",
    "LoRA": "w_lora",
    "sequence input": "seq_input",
    "text": ("text", "words"),  # how names of its modalities begin
    "pictures": ("image",),
}


def ablation_rows(settings: Settings) -> list[Row]:
    """The full run and one without each of PARTS, where the settings and the tables have it.

    A run without a part of the hypergraphs reads tables of its own, `{GNNModel}-no-{part}_item_embeddings.pt`; where
    they are missing, its row says which command makes them.

    Raises:
        FileNotFoundError, ValueError: base weights or features that can't be read.
    """
    made = pretraining_of(settings)
    rows = [Row("HeLLM", replace(settings, target=f"{settings.target}-ablation", resume=True))]
    for part, change in PARTS.items():
        without = f"no-{part.replace(' ', '-')}"
        start = replace(rows[0].settings, target=f"{rows[0].settings.target}-{without}")
        if isinstance(change, str):
            rows.append(without_switch(f"w/o {part}", start, change))
        else:
            start = replace(start, GNNModel=f"{settings.GNNModel}-{without}")
            rows.append(without_tables(f"w/o {part}", start, made, change))
    return rows


def without_switch(title: str, settings: Settings, switch: str) -> Row:
    """The settings with a part switched off, where it is on and something is left."""
    if not getattr(settings, switch) or (switch in ("graph_adapter", "prefix_adapter") and not settings.w_adapter):
        return Row(title, None, "not part of this preset")
    changed = replace(settings, **{switch: False})
    try:
        model_args(changed)
    except ValueError as mistake:
        return Row(title, None, f"nothing would be left: {mistake}")
    return Row(title, changed)


def without_tables(title: str, settings: Settings, made: GraphSettings, change: dict | tuple[str, ...]) -> Row:
    """The settings, which name tables of their own, where the full tables have the part and these are there.

    Args:
        made: the pre-training of the full tables.
        change: what is changed of it, or how names of the modalities begin that are left out.
    """
    both, absent = made.GNNModel == "MMHCL", Row(title, None, "not part of these graph tables")
    folder = dataset_folder(settings.data_dir, settings.dataset)
    if isinstance(change, tuple):
        used = made.features or tuple(path.stem.removesuffix("_feat") for path in find_features(folder))
        left = tuple(name for name in used if not name.startswith(change))
        if left == used or not (both and made.item_loss_ratio):
            return absent
        if not left:
            return Row(title, None, "nothing would be left of the item hypergraph: the same as w/o I2I")
        change = {"features": left}
    elif not both or not getattr(made, next(iter(change))):
        return absent
    name = table_names(settings.GNNModel)[1]
    if (folder / name).is_file():
        return Row(title, settings)
    command = graph_command(settings, replace(made, **change))
    return Row(title, None, "no such graph tables", f"{folder / name} is missing; make it: {command}")


def pretraining_of(settings: Settings) -> GraphSettings:
    """The settings behind a run's graph tables as their log tells them; those published where there is no log."""
    argv = ["--dataset", settings.dataset] + ["--GNNModel", "LightGCN"] * (settings.GNNModel == "LightGCN")
    published = parse_graph_args(argv)
    path = log_folder(settings.logging_dir, settings.dataset, settings.GNNModel) / published.target
    told = read_run(path).settings if file_of(path, "log.txt").is_file() else {}
    names = {field.name for field in fields(GraphSettings)}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items() if name in names}
    return replace(published, **told)


def graph_command(settings: Settings, wanted: GraphSettings) -> str:
    """The command line that makes the tables which `settings` name."""
    places = {name: getattr(settings, name) for name in ("data_dir", "output_dir", "logging_dir")}
    wanted = replace(wanted, tables=settings.GNNModel, **places)
    published = vars(parse_graph_args(["--dataset", settings.dataset]))
    flags = [flag(name, value) for name, value in vars(wanted).items() if value != published[name]]
    return shlex.join(["python", "-m", "preprocess.pretrain_graph", "--dataset", settings.dataset, *flags])
