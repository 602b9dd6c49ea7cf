"""Check which files a dataset's folder has, whether they match, and how to get or make the missing ones.

    python -m preprocess.check --dataset Beauty

Exits with status 0 if fine-tuning can start, 1 if a file that it reads is missing or does not match. Which files it
reads depends on --GNNModel and on the switches that fine-tuning has, too:

    python -m preprocess.check --dataset Beauty --feature_input --no-graph_input --no-seq_input --no-graph_adapter
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from preprocess.settings import CheckSettings, parse_check

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_check()

import numpy as np

from preprocess.raw.dataset_writer import SPLITS
from preprocess.raw.item_files import ITEM_TEXT_FILE, USER_ID_FILE, read_item_rows, read_texts
from utils.cli.errors import report_user_error
from utils.data.days import read_days
from utils.data.embeddings import load_embedding
from utils.data.feature_checks import check_row_ids, count_rows, why_uninformative
from utils.data.features import find_features, load_features
from utils.data.ids import numeric_order
from utils.data.interactions import Interactions, require_trainable
from utils.data.layout import ITEM_ID_FILE, dataset_folder, required_files

PUBLISHED_COUNTS = {  # users, items, interactions
    "Beauty": (22_363, 12_101, 198_502),
    "Toys_and_Games": (19_412, 11_924, 167_597),
    "Sports_and_Outdoors": (35_598, 18_357, 296_337),
}
FEATURES_ALONE = "--feature_input --no-graph_input --no-seq_input --no-graph_adapter"
FROM_RAW = "python -m preprocess.amazon --dataset {dataset}, or preprocess.own, from raw files (datasets/README.md)"


# ---------------------------------------------------------------- inspecting one file: return a summary, or raise


class FileCheck(NamedTuple):
    """The check of one file of the folder."""

    name: str
    inspect: Callable[[Path], str]  # returns a summary of the content, remarks on further lines, or raises
    remedy: str  # how to get the file if it is missing


def describe_interactions(data: Interactions, dataset: str) -> str:
    """Summarise an interaction file, with hints at other counts than the published ones and at a lost order."""
    require_trainable(data)
    counts = (data.n_users, data.n_items, data.n_interactions)
    summary = "{:,} users, {:,} items, {:,} interactions".format(*counts)
    if dataset in PUBLISHED_COUNTS:
        summary += ", the published counts" if counts == PUBLISHED_COUNTS[dataset] else ", not the published counts"
    is_rising = np.diff(data.items) > 0
    is_rising[data.start[1:] - 1] = True  # from one user to the next
    if is_rising.all():
        summary += "; every user's items are in order of id, so the order of time is lost"
    return summary


def describe_days(data: Interactions) -> str:
    """Summarise the days; raise a ValueError if they do not match the interaction file."""
    days = read_days(data.days_path, data.start + data.n_kept - data.full_start)
    neighbours = np.diff(days)
    neighbours = np.delete(neighbours, data.full_start[1:] - 1)  # from one user to the next
    return f"{np.mean(neighbours == 0):.0%} of all items fall on the day of the one before" if len(neighbours) else ""


def describe_embedding(path: Path, n_rows: int) -> str:
    """Summarise an embedding table; raise a ValueError if it has another number of rows."""
    table = load_embedding(path)
    if len(table) != n_rows:
        raise ValueError(f"{path}: {len(table)} rows where {n_rows} belong; make it from the same interaction file")
    return f"{table.shape[0]:,} x {table.shape[1]}"


def describe_features(path: Path, n_items: int, informative: set[str]) -> str:
    """Summarise a feature matrix, the items that have features, and what the ids of its rows were compared with.

    Args:
        path: the matrix.
        n_items: rows that it should have.
        informative: names of the matrices that tell items apart, to which this one is added if it does.
    """
    features = load_features(path, n_items)
    remarks = [f"features of {count_rows(features):,} of {n_items:,} items", check_row_ids(path, n_items)]
    if reason := why_uninformative(features):
        remarks.append(f"left out by all programs: {reason}")
    else:
        informative.add(path.name)
    return "\n".join([f"{features.shape[0]:,} x {features.shape[1]:,}", *remarks])


def describe_texts(path: Path, n_items: int) -> str:
    """Summarise the item texts; raise a ValueError if they are those of other items."""
    n_texts = sum(bool(text.strip()) for text in read_texts(path, n_items))
    mapping = path.with_name(ITEM_ID_FILE)
    if mapping.is_file():
        asins = {item: asin for _, item, asin in read_item_rows(mapping, n_items, ",")}
        for where, item, rest in read_item_rows(path, n_items, "\t"):
            asin = rest.partition("\t")[0]
            if asins.get(item, asin) != asin:
                problem = f"item {item} is {asin[:40]}, but {asins[item]} in {ITEM_ID_FILE}"
                raise ValueError(f"{where}: {problem}; make both from the same raw files")
    return f"{n_texts:,} of {n_items:,} items with text"


def describe_id_map(path: Path, n_rows: int) -> str:
    """Summarise an id map; raise a ValueError unless its ids are 0 to n_rows - 1 in order."""
    ids = [index for _, index, _ in read_item_rows(path, n_rows, ",")]
    if ids != list(range(n_rows)):
        raise ValueError(f"{path}: ids 0 to {n_rows - 1} in order are expected; make it from the same raw files")
    return f"{n_rows:,} ids"


def describe_item_ids(path: Path, n_items: int) -> str:
    """Summarise the id map of the items, with a remark on the order of ids that are whole numbers."""
    summary = describe_id_map(path, n_items)
    order = numeric_order([raw_id for _, _, raw_id in read_item_rows(path, n_items, ",")])
    if order is None:
        return summary
    if order == list(range(n_items)):
        return f"{summary}\nwhole numbers in their order, as features from elsewhere"
    return f"{summary}\nnumbers in another order: features from elsewhere need preprocess.features import"


def describe_splits(folder: Path, data: Interactions) -> str:
    """Summarise the splits; raise a ValueError if they differ from the interaction file."""
    splits = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in SPLITS]
    for user in range(data.n_users):
        sequence = [item for split in splits for item in split[str(user)]]
        if sequence != data.kept_items(user).tolist():
            raise ValueError(f"{folder}: user {user} differs from {data.path}; make both from the raw files")
    return f"{data.n_users:,} users, as in {data.path.name}"


# ---------------------------------------------------------------- the report


def file_checks(settings: CheckSettings, data: Interactions, informative: set[str]) -> list[FileCheck]:
    """List the checks of all files beside the interaction file.

    Args:
        settings: settings of the check.
        data: the interaction file.
        informative: where the names of the features that tell items apart go.
    """
    model = settings.GNNModel
    dataset_flag = f"--dataset {settings.dataset}"
    pretrain_graph = f"python -m preprocess.pretrain_graph {dataset_flag}"
    if model != "MMHCL":
        pretrain_graph += f" --GNNModel {model}"
    features = {path.name: "" for path in find_features(data.path.parent)}
    if not features:
        features = {
            "text_feat.npz": f"python -m preprocess.features text {dataset_flag}",
            "image_feat.npy": f"python -m preprocess.features image --encoder histogram {dataset_flag}",
        }
    pretrain_sasrec = f"python -m preprocess.pretrain_sasrec {dataset_flag}"
    n_users = data.n_users
    n_items = data.n_items
    return [
        FileCheck(data.days_path.name, lambda path: describe_days(data), f"optional; {FROM_RAW}"),
        FileCheck(f"{model}_item_embeddings.pt", lambda path: describe_embedding(path, n_items), pretrain_graph),
        FileCheck(f"{model}_user_embeddings.pt", lambda path: describe_embedding(path, n_users), pretrain_graph),
        FileCheck("SASRec_item_embedding.pt", lambda path: describe_embedding(path, n_items + 1), pretrain_sasrec),
        *(
            FileCheck(name, lambda path: describe_features(path, n_items, informative), remedy)
            for name, remedy in features.items()
        ),
        FileCheck(ITEM_TEXT_FILE, lambda path: describe_texts(path, n_items), FROM_RAW),
        FileCheck(USER_ID_FILE, lambda path: describe_id_map(path, n_users), FROM_RAW),
        FileCheck(ITEM_ID_FILE, lambda path: describe_item_ids(path, n_items), FROM_RAW),
        FileCheck("5-core", lambda path: describe_splits(path, data), FROM_RAW),
    ]


def require_regular_file(path: Path) -> None:
    """Raise a ValueError if a path, or a JSON file in it, is a pipe or device, whose reading might never end."""
    for entry in (path, *path.glob("*.json")):
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise ValueError(f"{entry}: neither a file nor a folder; remove it")


def report(settings: CheckSettings) -> bool:
    """Print one line per file and return whether fine-tuning can start."""
    folder = dataset_folder(settings.data_dir, settings.dataset)
    reads_graph_table = settings.graph_input or settings.graph_adapter
    needed = required_files(settings.dataset, settings.GNNModel, reads_graph_table, settings.seq_input)
    if settings.feature_input:
        needed += [path.name for path in find_features(folder)]
    usable = set()
    informative = set()
    data = None
    print(folder)

    def print_status(check: FileCheck) -> None:
        path = folder / check.name
        status = "missing"
        details = check.remedy.format(dataset=settings.dataset)
        if path.exists():
            try:
                require_regular_file(path)
                details = check.inspect(path)
                status = "ok"
                usable.add(check.name)
            except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
                status = "wrong"
                details = " ".join(str(error).split())
        mark = "*" if check.name in needed else " "
        first, *remarks = details.splitlines() or [""]
        print(f"{status:<8} {mark} {check.name:<26} {first}")
        for remark in remarks:
            print(f"{'':<38}{remark}")

    def inspect_interactions(path: Path) -> str:
        nonlocal data
        data = Interactions(path, 0, with_days=False)
        return describe_interactions(data, settings.dataset)

    print_status(FileCheck(f"{settings.dataset}.txt", inspect_interactions, f"{FROM_RAW}; or a public file"))
    if data is not None:
        for check in file_checks(settings, data, informative):
            print_status(check)
    can_start = usable >= set(needed) and bool(informative or not settings.feature_input)
    inputs = ["graph"] * reads_graph_table + ["sequence"] * settings.seq_input
    sources = [f"{' and '.join(inputs)} embeddings"] * bool(inputs) + ["features"] * settings.feature_input
    note = "can start" if can_start else "cannot start yet"
    if not can_start and informative and needed[0] in usable and not settings.feature_input:
        note += f"; from features alone it can: {FEATURES_ALONE}"
    print(f"* needed for fine-tuning on {' and '.join(sources) or 'interactions'}, which {note}")
    return can_start


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    settings = parse_check(argv)
    try:
        return 0 if report(settings) else 1
    except (ValueError, OSError) as error:
        return report_user_error(error)


if __name__ == "__main__":
    sys.exit(main())
