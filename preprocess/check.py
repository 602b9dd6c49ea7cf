"""What a dataset's folder holds, whether its files fit together, and how to get or make what is missing.

    python -m preprocess.check --dataset Beauty

Exit status 0 when fine-tuning can start, 1 when a file that it reads is missing or does not fit.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.pretraining.hypergraph import find_features, load_features
from preprocess.raw.item_files import read_item_rows, read_texts
from utils.cli.errors import report_user_error
from utils.cli.flags import parse_settings
from utils.cli.validation import check_choices_and_names
from utils.data.embeddings import load_embedding
from utils.data.interactions import Interactions, require_trainable
from utils.data.layout import dataset_folder, required_files

PUBLISHED = {  # users, items, interactions
    "Beauty": (22_363, 12_101, 198_502),
    "Toys_and_Games": (19_412, 11_924, 167_597),
    "Sports_and_Outdoors": (35_598, 18_357, 296_337),
}
FROM_RAW = "python -m preprocess.amazon --dataset {dataset}, or preprocess.own, from raw files (datasets/README.md)"


@dataclass(frozen=True)
class CheckSettings:
    """Settings of the check."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph-embedding files that fine-tuning should read: MMHCL or LightGCN


def validate_settings(settings: CheckSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    return check_choices_and_names(settings, {"GNNModel": ("MMHCL", "LightGCN")}, ("dataset",))


def interactions(path: Path, data: Interactions, dataset: str) -> str:
    require_trainable(data)
    found = data.n_users, data.n_items, data.n_interactions
    note = {None: "", found: ", the published counts"}.get(PUBLISHED.get(dataset), ", not the published counts")
    rising = np.diff(data.items) > 0
    rising[data.begin[1:] - 1] = True  # from one user to the next
    lost = "; every user's items are in order of id, so the order of time is lost" if rising.all() else ""
    return "{:,} users, {:,} items, {:,} interactions".format(*found) + note + lost


def require_regular_file(path: Path) -> None:
    for there in (path, *path.glob("*.json")):
        if there.exists() and not (there.is_file() or there.is_dir()):  # reading may never end
            raise ValueError(f"{there}: neither a file nor a folder; remove it")


def table(rows: int) -> Callable[[Path], str]:
    def inspect(path: Path) -> str:
        found = load_embedding(path)
        if len(found) != rows:
            raise ValueError(f"{path}: {len(found)} rows where {rows} belong; make it from the same interaction file")
        return f"{found.shape[0]:,} x {found.shape[1]}"

    return inspect


def id_map(rows: int) -> Callable[[Path], str]:
    def inspect(path: Path) -> str:
        if [number for _, number, _ in read_item_rows(path, rows, ",")] != list(range(rows)):
            raise ValueError(f"{path}: ids 0 to {rows - 1} in order are expected; make it from the same raw files")
        return f"{rows:,} ids"

    return inspect


def check_splits(data: Interactions) -> Callable[[Path], str]:
    def inspect(folder: Path) -> str:
        users = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "val", "test")]
        for user in range(data.n_users):
            sequence = [item for part in users for item in part[str(user)]]
            if sequence != data.items[data.begin[user] : data.begin[user] + data.count[user]].tolist():
                raise ValueError(f"{folder}: user {user} differs from {data.path}; make both from the raw files")
        return f"{data.n_users:,} users, as in {data.path.name}"

    return inspect


def file_checks(
    settings: CheckSettings, folder: Path, data: Interactions
) -> list[tuple[str, Callable[[Path], str], str]]:
    """Name, look and remedy of every file beside the interaction file. A look returns what it found, or raises."""
    model, module = settings.GNNModel, f"--dataset {settings.dataset}"
    pretrain = f"python -m preprocess.pretrain_graph {module}" + f" --GNNModel {model}" * (model != "MMHCL")
    features = {path.name: "" for path in find_features(folder)} or {
        "text_feat.npy": f"python -m preprocess.features text {module}",
        "image_feat.npy": f"python -m preprocess.features image --encoder histogram {module}",
    }
    return [
        (f"{model}_item_embeddings.pt", table(data.n_items), pretrain),
        (f"{model}_user_embeddings.pt", table(data.n_users), pretrain),
        ("SASRec_item_embedding.pt", table(data.n_items + 1), f"python -m preprocess.pretrain_sasrec {module}"),
        *(
            (name, lambda path: "{:,} x {:,}".format(*load_features(path, data.n_items).shape), remedy)
            for name, remedy in features.items()
        ),
        ("item_text.tsv", lambda path: f"{sum(map(bool, read_texts(path, data.n_items))):,} items with text", FROM_RAW),
        ("u_id_mapping.csv", id_map(data.n_users), FROM_RAW),
        ("i_id_mapping.csv", id_map(data.n_items), FROM_RAW),
        ("5-core", check_splits(data), FROM_RAW),
    ]


def report(settings: CheckSettings) -> bool:
    """Print a line a file; returns whether fine-tuning can start."""
    folder = dataset_folder(settings.data_dir, settings.dataset)
    name = f"{settings.dataset}.txt"
    needed, good = required_files(settings.dataset, settings.GNNModel), set()
    print(folder)

    def print_status(name: str, inspect: Callable[[Path], str], remedy: str) -> None:
        path = folder / name
        state, said = "missing", remedy.format(dataset=settings.dataset)
        if path.exists():
            try:
                require_regular_file(path)
                state, said = "ok", inspect(path)
                good.add(name)
            except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
                state, said = "wrong", " ".join(str(error).split())
        print(f"{state:<8} {'*' if name in needed else ' '} {name:<26} {said}")

    data = None

    def first(path: Path) -> str:
        nonlocal data
        data = Interactions(path, 0)
        return interactions(path, data, settings.dataset)

    print_status(name, first, f"{FROM_RAW}; or a public file")
    if data:
        for entry in file_checks(settings, folder, data):
            print_status(*entry)
    print("* read by fine-tuning, which " + ("can start" if good >= set(needed) else "cannot start yet"))
    return good >= set(needed)


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    settings = parse_settings(
        CheckSettings, argv, "python -m preprocess.check", "Check a dataset's files.", validate_settings
    )
    try:
        return 0 if report(settings) else 1
    except (ValueError, OSError) as mistake:
        return report_user_error(mistake)


if __name__ == "__main__":
    sys.exit(main())
