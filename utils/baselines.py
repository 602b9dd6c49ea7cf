"""What needs no HeLLM: popularity, item-kNN, SASRec and graph embeddings alone, by the same splits and metrics.

    python -m utils.baselines --dataset Beauty

Prints a table and writes, of each, `log/{dataset}/baselines/{name}_metrics.jsonl` and `{name}_ranks.npz`.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from llama.checkpoint import check_keys_and_shapes
from preprocess.pretrain_graph import table_names
from preprocess.pretrain_sasrec import validate_settings as check_sasrec
from preprocess.pretraining.hypergraph import interaction_matrix
from preprocess.pretraining.sasrec import SASRec, SequenceSettings
from preprocess.pretraining.trainer import BEST_MODEL
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.restored import restore_settings
from utils.cli.validation import check_max_len, check_names, check_numbers
from utils.data.embeddings import load_embedding
from utils.data.input_files import require_same_inputs
from utils.data.interactions import Interactions, Samples
from utils.data.layout import require_files
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import Ranking, evaluate_ranking, rank_by_popularity, rank_by_product
from utils.io.torch_files import load_with_checksum
from utils.logs.records import HEADLINE_METRICS, SELECTION_METRIC, FinalRecord, read_metrics
from utils.logs.run_log import RunLog, log_folder
from utils.runtime.lock import run_lock
from utils.training.checkpoints import STATE, read_checkpoint, run_folder

K_CANDIDATES = (10, 20, 50, 100, 200, 500, 1000)  # of an item, of which validation chooses
BATCH = 512  # users
Ranker = Callable[[Samples], Ranking]  # of the samples' targets


@dataclass(frozen=True)
class BaselineSettings:
    """Of all baselines; a comment a field, shown by --help."""

    dataset: str = "Beauty"  # folder under DATA_DIR/sequential
    data_dir: str = "datasets"  # holds sequential/DATASET/
    GNNModel: str = "MMHCL"  # graph-embedding files: MMHCL or LightGCN
    max_len: int = 50  # last items of a user that are read and trained on, both targets among them
    neighbours: int = 0  # similar items that count for an item in item-kNN; 0: validation chooses
    output_dir: str = "output"  # where preprocess.pretrain_sasrec has left its best model
    logging_dir: str = "log"  # metrics and ranks go to LOGGING_DIR/DATASET/baselines


def validate_settings(settings: BaselineSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    problems = check_numbers(settings, at_least_0=("neighbours",))
    return problems + check_names(settings, "dataset", "GNNModel") + check_max_len(settings)


@dataclass
class Baseline:
    """Rankings of the validation and the test targets, and the settings behind them."""

    validation: Ranking
    test: Ranking
    settings: dict


def evaluate_baseline(rank: Ranker, data: Interactions) -> Baseline:
    """A baseline without settings."""
    return Baseline(rank(data.validation()), rank(data.test()), {})


def item_cosine_similarity(data: Interactions) -> sp.csr_matrix:
    """Of items by their training interactions: sparse float32 (I, I), without itself, every row the largest first.

    Equal ones are in order of item id.
    """
    R = interaction_matrix(*data.training_pairs(), (data.n_users, data.n_items))
    together = (R.T @ R).tocoo()  # users who bought both
    row, column = together.row, together.col
    bought = np.bincount(R.indices, minlength=data.n_items)
    value = together.data / np.sqrt(bought[row] * bought[column].astype(float))
    order = np.lexsort((column, -value, row))
    order = order[row[order] != column[order]]
    begin = np.searchsorted(row[order], np.arange(data.n_items + 1))
    return sp.csr_matrix((value[order].astype(np.float32), column[order], begin), (data.n_items, data.n_items))


def keep_top_k(similar: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """The first entries of every row of `cosines`, which are the most similar items."""
    place = np.arange(similar.nnz) - np.repeat(similar.indptr[:-1], np.diff(similar.indptr))
    kept = place < neighbours
    begin = np.concatenate([[0], np.cumsum(kept)])[similar.indptr]
    return sp.csr_matrix((similar.data[kept], similar.indices[kept], begin), similar.shape)


def item_knn(settings: BaselineSettings, data: Interactions) -> Baseline:
    """An item's score is the sum of its cosines with the history's items that have it among their neighbours."""
    similar, tried = item_cosine_similarity(data), {}
    for neighbours in [settings.neighbours] if settings.neighbours else K_CANDIDATES:
        score = partial(_sum_over_history, keep_top_k(similar, neighbours))
        ranking = evaluate_ranking(score, data, data.validation(), BATCH)
        tried[neighbours] = ranking_metrics(ranking.seen_kept)[SELECTION_METRIC], ranking, score
    best = max(tried, key=lambda neighbours: tried[neighbours][0])
    _, validation, score = tried[best]
    return Baseline(validation, evaluate_ranking(score, data, data.test(), BATCH), {"neighbours": best})


def _sum_over_history(similar: sp.csr_matrix, items: Tensor, mask: Tensor | None) -> Tensor:
    user, place = np.nonzero(np.ones(items.shape) if mask is None else mask.numpy())
    history = (np.ones(len(user), np.float32), (user, items.numpy()[user, place]))
    return torch.from_numpy((sp.csr_matrix(history, (len(items), similar.shape[0])) @ similar).toarray())


def sasrec(settings: BaselineSettings, data: Interactions) -> Ranker:
    """SASRec as preprocess.pretrain_sasrec has left it, its encoder with it.

    Raises:
        FileNotFoundError: not left here; names what makes it.
        ValueError: damaged, or trained on other data, what is held out here among it.
    """
    folder = run_folder(settings.output_dir, settings.dataset, "SASRec", SequenceSettings.target)
    path = folder / BEST_MODEL
    if not path.is_file() or not (folder / STATE).is_file():
        raise FileNotFoundError(f"{path} or {STATE} missing; python -m preprocess.pretrain_sasrec makes both")
    recorded, weights = read_checkpoint(folder / STATE)["settings"], load_with_checksum(path)
    made_by = restore_settings(SequenceSettings, recorded, folder / STATE, check_sasrec)
    require_same_inputs(folder, recorded, [data.path])
    model = SASRec(data.n_items, made_by).eval()
    check_keys_and_shapes(str(path), set(weights), set(dict(model.named_parameters())))
    rows = len(weights["item_embedding.weight"])
    if rows != data.n_items + 1:
        raise ValueError(f"{path}: {rows} rows, but {data.path} needs {data.n_items + 1}; train it on the same data")
    if made_by.max_len < settings.max_len:
        raise ValueError(f"{path}: trained with --max_len {made_by.max_len}, which is the most it can score")
    model.load_state_dict(weights)
    return partial(evaluate_ranking, model, data, batch_size=BATCH, padding="right")


def graph_embeddings(settings: BaselineSettings, data: Interactions) -> Ranker:
    """Products of the user's and the item's graph embedding.

    Raises:
        FileNotFoundError, ValueError: a table is missing, or does not fit the data; names it.
    """
    folder = require_files(settings.data_dir, settings.dataset, table_names(settings.GNNModel))
    tables = []
    for name, rows in zip(table_names(settings.GNNModel), (data.n_users, data.n_items), strict=True):
        table = load_embedding(folder / name)
        if len(table) != rows:
            raise ValueError(f"{folder / name}: {len(table)} rows, but {data.path} needs {rows}; make both again")
        tables.append(table)
    return partial(_rank_products, *tables, data)


def _rank_products(users: Tensor, items: Tensor, data: Interactions, samples: Samples) -> Ranking:
    started = time.perf_counter()
    row, item = data.seen_items(samples)
    shape = (data.n_users, data.n_items)
    seen = interaction_matrix(samples.user[row], item, shape)
    targets = data.targets(samples)
    kept, removed = (rank_by_product(users, items, out, samples.user, targets) for out in (sp.csr_matrix(shape), seen))
    return Ranking(kept, removed, 2 * len(samples) / (time.perf_counter() - started))


def logged_sasrec(settings: BaselineSettings) -> FinalRecord | None:
    """Return the test in SASRec's own log, None without one by both protocols."""
    folder = log_folder(settings.logging_dir, settings.dataset, "SASRec")
    path = folder / f"{SequenceSettings.target}_metrics.jsonl"
    record = read_metrics(path)[1]
    return record if record and record.test_unseen else None


def row(name: str, record: FinalRecord) -> str:
    """A line of the printed table, both protocols."""
    cells = [f"{values[metric]:.4f}" for values in (record.test, record.test_unseen) for metric in HEADLINE_METRICS]
    return f"| {name} | " + " | ".join(cells) + " |"


def write(max_len: int, of_all: dict[str, Baseline], folder: Path) -> None:
    """Print the table and write metrics and ranks of each.

    Args:
        max_len: that all have read; of_all: by name; folder: for the files.
    """
    print("| seen items kept, then removed | " + " | ".join(HEADLINE_METRICS * 2) + " |\n" + "| --- " * 9 + "|")
    for name, found in of_all.items():
        record = FinalRecord(
            test=ranking_metrics(found.test.seen_kept),
            test_unseen=ranking_metrics(found.test.seen_removed),
            users=len(found.test.seen_kept),
            users_per_s=found.test.users_per_s,
            settings={"max_len": max_len, **found.settings},
            val=ranking_metrics(found.validation.seen_kept),
            val_unseen=ranking_metrics(found.validation.seen_removed),
        )
        log = RunLog(folder, name, "")
        log.clear()
        log.write_final([], record, found.test)
        print(row(name, record))


def run(settings: BaselineSettings) -> None:
    """Rank with every baseline whose files are there, print the table and write metrics and ranks.

    Raises:
        FileNotFoundError: no interaction file.
        ValueError: a file that is there does not fit, nothing to rank, or another process is at this.
    """
    file = f"{settings.dataset}.txt"
    data = Interactions(require_files(settings.data_dir, settings.dataset, [file]) / file, settings.max_len)
    if not len(data.validation()):
        raise ValueError(f"{data.path}: no user has the three items of a validation; take data with longer histories")
    rankers, absent = {}, []
    for name, read in (("SASRec", sasrec), ("graph", graph_embeddings)):
        try:
            rankers[settings.GNNModel if name == "graph" else name] = read(settings, data)
        except FileNotFoundError as missing:
            absent.append(f"{name}: {missing}")
    folder = log_folder(settings.logging_dir, settings.dataset, "baselines")
    with run_lock(folder, flag="--logging_dir"):
        of_all = {
            "popularity": evaluate_baseline(partial(rank_by_popularity, data), data),
            "item-kNN": item_knn(settings, data),
        }
        of_all |= {name: evaluate_baseline(rank, data) for name, rank in rankers.items()}
        write(settings.max_len, of_all, folder)
    if "SASRec" not in of_all:
        logged = logged_sasrec(settings)
        if logged:
            print(row("SASRec, by its log", logged))
    print("".join(f"left out: {reason}\n" for reason in absent), end="")


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    what = "Rank without HeLLM: popularity, item-kNN, SASRec and graph embeddings alone."
    settings = parse_settings(BaselineSettings, argv, "python -m utils.baselines", what, validate_settings)
    return run_program(run, settings)


if __name__ == "__main__":
    sys.exit(main())
