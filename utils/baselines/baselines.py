"""Evaluate what needs no HeLLM: popularity, item-kNN, SASRec alone and graph embeddings alone.

    python -m utils.baselines --dataset Beauty

Splits and metrics are those of fine-tuning. Prints a table and writes `{name}_metrics.jsonl` and `{name}_ranks.npz` of
each baseline into `log/{dataset}/baselines/`.
"""

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
from preprocess.pretraining.graph_settings import table_names
from preprocess.pretraining.hypergraph import interaction_matrix
from preprocess.pretraining.sasrec import SASRec
from preprocess.pretraining.sequence_settings import SequenceSettings
from preprocess.pretraining.sequence_settings import validate_settings as check_sasrec
from preprocess.pretraining.trainer import BEST_MODEL
from utils.baselines.settings import BaselineSettings, parse_args
from utils.cli.errors import run_program
from utils.cli.progress import announce
from utils.cli.restored import restore_settings
from utils.data.embeddings import load_embedding
from utils.data.input_files import require_same_inputs
from utils.data.interactions import Interactions, Samples
from utils.data.layout import require_files
from utils.evaluation.metrics import HEADLINE_METRICS, Ranking, format_metric, ranking_metrics
from utils.evaluation.ranking import evaluate_ranking, rank_by_popularity, rank_by_product
from utils.io.torch_files import load_with_checksum
from utils.logs.records import FinalRecord, read_metrics
from utils.logs.run_log import RunLog, log_folder
from utils.runtime.lock import run_lock
from utils.training.checkpoints import read_checkpoint
from utils.training.run_files import STATE, run_folder

K_CANDIDATES = (10, 20, 50, 100, 200, 500, 1000)  # numbers of neighbours among which validation chooses
BATCH = 512  # users scored at a time
Ranker = Callable[[Samples], Ranking]  # ranks the targets of a split


@dataclass
class Baseline:
    """The rankings of one baseline and the settings behind them."""

    validation: Ranking
    test: Ranking
    settings: dict


def evaluate_baseline(rank: Ranker, data: Interactions) -> Baseline:
    """Rank both splits with a baseline that has no settings."""
    return Baseline(rank(data.validation()), rank(data.test()), {})


def item_cosine_similarity(data: Interactions) -> sp.csr_matrix:
    """Compute the cosine similarity of items by the users of their training interactions.

    Returns:
        float32 (n_items, n_items), zero on the diagonal. The entries of a row are stored from the most similar item to
        the least, equal ones in order of item id.
    """
    R = interaction_matrix(*data.training_pairs(), (data.n_users, data.n_items))
    common = (R.T @ R).tocoo()  # number of users who have both items
    row, column = common.row, common.col
    n_users = np.bincount(R.indices, minlength=data.n_items).astype(float)
    cosine = common.data / np.sqrt(n_users[row] * n_users[column])
    order = np.lexsort((column, -cosine, row))
    order = order[row[order] != column[order]]
    row_starts = np.searchsorted(row[order], np.arange(data.n_items + 1))
    entries = (cosine[order].astype(np.float32), column[order], row_starts)
    return sp.csr_matrix(entries, (data.n_items, data.n_items))


def keep_top_k(similarity: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Keep the first k stored entries of every row: of `item_cosine_similarity`, the k most similar items."""
    row_lengths = np.diff(similarity.indptr)
    position = np.arange(similarity.nnz) - np.repeat(similarity.indptr[:-1], row_lengths)  # within the row
    kept = position < k
    row_starts = np.concatenate([[0], np.cumsum(kept)])[similarity.indptr]
    return sp.csr_matrix((similarity.data[kept], similarity.indices[kept], row_starts), similarity.shape)


def item_knn(settings: BaselineSettings, data: Interactions) -> Baseline:
    """Rank by item-kNN.

    An item's score is the sum of its similarities to the items of the history that have it among their neighbours.
    """
    similarity = item_cosine_similarity(data)
    candidates = [settings.neighbours] if settings.neighbours else K_CANDIDATES
    tried = {}
    for k in candidates:
        score = partial(_sum_over_history, keep_top_k(similarity, k))
        validation = evaluate_ranking(score, data, data.validation(), BATCH)
        tried[k] = ranking_metrics(validation.seen_kept)["NDCG@10"], score, validation
    k = max(tried, key=lambda k: tried[k][0])
    _, score, validation = tried[k]
    return Baseline(validation, evaluate_ranking(score, data, data.test(), BATCH), {"neighbours": k})


def _sum_over_history(similarity: sp.csr_matrix, items: Tensor, mask: Tensor | None) -> Tensor:
    """Sum the similarities of a batch's histories: int64 items (B, T) and their mask to float32 (B, n_items)."""
    row, position = np.nonzero(np.ones(items.shape) if mask is None else mask.numpy())
    entries = (np.ones(len(row), np.float32), (row, items.numpy()[row, position]))
    histories = sp.csr_matrix(entries, (len(items), similarity.shape[0]))
    return torch.from_numpy((histories @ similarity).toarray())


def sasrec(settings: BaselineSettings, data: Interactions) -> Ranker:
    """Load the whole SASRec, encoder included, that preprocess.pretrain_sasrec has trained.

    Raises:
        FileNotFoundError: it is not there; names the program that makes it.
        ValueError: it is damaged, or was trained on other data, which may include what is held out here.
    """
    folder = run_folder(settings.output_dir, settings.dataset, "SASRec", SequenceSettings.target)
    path = folder / BEST_MODEL
    if not path.is_file() or not (folder / STATE).is_file():
        raise FileNotFoundError(f"{path} or {STATE} missing; python -m preprocess.pretrain_sasrec makes both")
    recorded = read_checkpoint(folder / STATE)["settings"]
    weights = load_with_checksum(path)
    trained_with = restore_settings(SequenceSettings, recorded, folder / STATE, check_sasrec)
    require_same_inputs(folder, recorded, [data.path])

    model = SASRec(data.n_items, trained_with).eval()
    check_keys_and_shapes(str(path), set(weights), set(dict(model.named_parameters())))
    n_rows = len(weights["item_embedding.weight"])
    if n_rows != data.n_items + 1:
        raise ValueError(f"{path}: {n_rows} rows, but {data.path} needs {data.n_items + 1}; train it on the same data")
    if trained_with.max_len < settings.max_len:
        raise ValueError(f"{path}: trained with --max_len {trained_with.max_len}, which is the most it can score")
    model.load_state_dict(weights)
    return partial(evaluate_ranking, model, data, batch_size=BATCH, padding="right")


def graph_embeddings(settings: BaselineSettings, data: Interactions) -> Ranker:
    """Load the graph embeddings of users and items, whose products are the scores.

    Raises:
        FileNotFoundError: a table is missing; names it.
        ValueError: a table does not fit the data; names it.
    """
    names = table_names(settings.GNNModel)
    folder = require_files(settings.data_dir, settings.dataset, names)
    tables = []
    for name, n_rows in zip(names, (data.n_users, data.n_items), strict=True):
        table = load_embedding(folder / name)
        if len(table) != n_rows:
            raise ValueError(f"{folder / name}: {len(table)} rows, but {data.path} needs {n_rows}; regenerate both")
        tables.append(table)
    return partial(_rank_products, *tables, data)


def _rank_products(users: Tensor, items: Tensor, data: Interactions, samples: Samples) -> Ranking:
    started = time.perf_counter()
    row, item = data.seen_items(samples)
    seen = interaction_matrix(samples.user[row], item, (data.n_users, data.n_items))
    seen_kept, seen_removed = rank_by_product(users, items, seen, samples.user, data.targets(samples))
    users_per_s = len(samples) / (time.perf_counter() - started)
    return Ranking(seen_kept, seen_removed, users_per_s, data.is_later_day(samples))


def logged_sasrec(settings: BaselineSettings) -> FinalRecord | None:
    """Read the test in SASRec's own log; None without a test by both protocols."""
    folder = log_folder(settings.logging_dir, settings.dataset, "SASRec")
    _, final = read_metrics(folder / f"{SequenceSettings.target}_metrics.jsonl")
    return final if final and final.test_unseen else None


def table_row(name: str, record: FinalRecord) -> str:
    """Format a row of the printed table, of at most 100 columns: the metrics of both protocols."""
    cells = [
        format_metric(values, metric) for values in (record.test, record.test_unseen) for metric in HEADLINE_METRICS
    ]
    return f"{name:20}" + "".join(f"{cell:>10}" for cell in cells)


def write_results(results: dict[str, Baseline], max_len: int, folder: Path) -> None:
    """Print the table and write the metrics and ranks of each baseline.

    Args:
        results: baselines by name.
        max_len: the number of newest items that all have read.
        folder: where the files go.
    """
    width = 10 * len(HEADLINE_METRICS)
    print(f"{'test':20}{'all items ranked':>{width}}{'history removed':>{width}}")
    print(f"{'':20}" + "".join(f"{metric:>10}" for metric in HEADLINE_METRICS * 2))
    for name, baseline in results.items():
        record = FinalRecord(
            **baseline.test.test_metrics(),
            users=len(baseline.test.seen_kept),
            users_per_s=baseline.test.users_per_s,
            settings={"max_len": max_len, **baseline.settings},
            **baseline.validation.validation_metrics(),
        )
        log = RunLog(folder, name, published="")
        log.clear()
        log.write_final([], record, baseline.test)
        print(table_row(name, record))


def run(settings: BaselineSettings) -> None:
    """Evaluate every baseline whose files are there, print the table, write metrics and ranks.

    Raises:
        FileNotFoundError: there is no interaction file.
        ValueError: a file does not fit, there is nothing to rank, or another process writes there.
    """
    file = f"{settings.dataset}.txt"
    with announce(f"reading {settings.dataset}"):
        data = Interactions(require_files(settings.data_dir, settings.dataset, [file]) / file, settings.max_len)
    if not len(data.validation()):
        raise ValueError(f"{data.path}: no user has the three items of a validation; take data with longer histories")

    # All files are read before the first ranking, so that one that does not fit ends the program at once
    rankers, missing = {}, []
    for kind, name, load in (("SASRec", "SASRec", sasrec), ("graph", settings.GNNModel, graph_embeddings)):
        try:
            rankers[name] = load(settings, data)
        except FileNotFoundError as error:
            missing.append(f"{kind}: {error}")

    folder = log_folder(settings.logging_dir, settings.dataset, "baselines")
    with run_lock(folder, flag="--logging_dir"):
        evaluations = {
            "popularity": partial(evaluate_baseline, partial(rank_by_popularity, data), data),
            "item-kNN": partial(item_knn, settings, data),
        }
        evaluations |= {name: partial(evaluate_baseline, rank, data) for name, rank in rankers.items()}
        results = {}
        for number, (name, evaluate) in enumerate(evaluations.items(), 1):
            with announce(f"baseline {number} of {len(evaluations)}: {name}"):
                results[name] = evaluate()
        write_results(results, settings.max_len, folder)
    logged = logged_sasrec(settings) if "SASRec" not in results else None
    if logged:
        print(table_row("SASRec, by its log", logged))
    for reason in missing:
        print(f"left out: {reason}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    return run_program(run, parse_args(argv))
