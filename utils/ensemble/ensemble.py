"""Make a committee of finished runs: sum what they score, test it once, and write it as a run.

    python -m utils.ensemble output/Beauty/MMHCL/best-2024 output/Beauty/MMHCL/text-2024 --out both
    python -m utils.ensemble output/Beauty/MMHCL/best-2024 output/Beauty/MMHCL/text-2024 --out both --weights validation
    python -m utils.report --compare log/Beauty/MMHCL/best-2024 log/Beauty/MMHCL/both
    python -m utils.recommend --run output/Beauty/MMHCL/both --user '#42'

An item's score is the weighted sum of its log-softmax over all items, one term per member. Members may differ in
tables, objective, seed and all other settings, but must have the same interaction file. The committee is written where
a run of the first member's dataset and GNNModel would be: its test to log/DATASET/GNNMODEL/NAME_*, and the names of its
members to output/DATASET/GNNMODEL/NAME/committee.json.

--weights validation tries equal weights and every split of 1 into multiples of 1/n, with the largest n up to 10 that
gives at most 70 splits: tenths for two and three members, fifths for four, quarters for five. All are ranked in one
pass over the validation; of equally good ones the first counts.
"""

import contextlib
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from utils.cli.errors import run_program
from utils.data.batches import collate, scoring_batches, to_device
from utils.data.interactions import Interactions
from utils.ensemble.settings import EnsembleSettings, parse_args, parse_weights
from utils.evaluation.metrics import Ranking, ranking_metrics
from utils.evaluation.ranking import evaluate_ranking
from utils.evaluation.target_ranks import ranks_with_and_without_seen
from utils.logs.records import FinalRecord
from utils.logs.run_log import SETTINGS, RunLog, log_folder, settings_line
from utils.runtime.distributed import resolve_device
from utils.runtime.lock import run_lock
from utils.runtime.memory import explain_out_of_memory, peak_memory
from utils.training.build import recommend_command
from utils.training.committee import Committee, load_committee, write_committee
from utils.training.run_files import BEST_ADAPTER, COMMITTEE_FILE, STATE, run_folder
from utils.training.saved_run import SavedRun, read_run

MAX_PARTS = 10  # the finest weights that validation tries are tenths
MAX_SPLITS = 70  # of 1 among the members


def read_members(folders: list[str], data_dir: str) -> list[SavedRun]:
    """Read the members' settings.

    Raises:
        FileNotFoundError: a member's file is missing; names it.
        ValueError: a member is damaged, or given twice; names it.
    """
    runs = [read_run(Path(folder), data_dir) for folder in folders]
    places = [run.folder.resolve() for run in runs]
    for run in runs:
        if places.count(run.folder.resolve()) > 1:
            raise ValueError(f"{run.folder}: given twice; raise its share by --weights instead")
    return runs


def candidate_weights(n_members: int) -> list[tuple[float, ...]]:
    """Return the weights that validation chooses among, equal ones first."""
    n_parts = max(n for n in range(1, MAX_PARTS + 1) if n == 1 or _n_splits(n, n_members) <= MAX_SPLITS)
    owners = itertools.combinations_with_replacement(range(n_members), n_parts)  # who has each part
    splits = [tuple(owner.count(member) / n_parts for member in range(n_members)) for owner in owners]
    return [(1.0,) * n_members, *(split for split in splits if len(set(split)) > 1)]


def _n_splits(n_parts: int, n_members: int) -> int:
    """Return in how many ways so many equal parts can be given to the members."""
    return math.comb(n_parts + n_members - 1, n_members - 1)


@torch.no_grad()
def choose_weights(
    committee: Committee, data: Interactions, choose_by: str, batch_size: int, device: torch.device
) -> tuple[list[float], int]:
    """Return the weights that are the best on validation, and how many were tried.

    Every member scores a batch once for all weights. Sums of logits rank like those of log-softmax, which differ from
    them by one number per user.

    Args:
        committee: members, whose present weights do not matter.
        data: interactions with the committee's `max_len`.
        choose_by: a metric of `val` (all items ranked) or `val_unseen` (the user's history removed): val.NDCG@10.
        batch_size: users per forward pass.
        device: where the members are.
    """
    candidates = candidate_weights(len(committee.models))
    samples = data.validation()
    ranks = np.zeros((len(candidates), len(samples)), np.int64)
    split, metric = choose_by.split(".")
    for rows in scoring_batches(samples.length, batch_size):
        batch = collate(data, samples, rows).to(device)
        seen = to_device(torch.from_numpy(data.seen_items(samples, rows)), device)
        logits = list(committee.logits(batch.items, batch.mask))
        for number, weights in enumerate(candidates):
            scores = sum(weight * member for weight, member in zip(weights, logits, strict=True))
            seen_kept, seen_removed = ranks_with_and_without_seen(scores, seen, batch.targets)
            ranks[number, rows] = (seen_kept if split == "val" else seen_removed).cpu().numpy()
    values = [ranking_metrics(rank)[metric] for rank in ranks]
    return list(candidates[int(np.argmax(values))]), len(candidates)


def evaluate(
    settings: EnsembleSettings, runs: list[SavedRun], data: Interactions, committee: Committee, device: torch.device
) -> tuple[FinalRecord, Ranking]:
    """Choose the weights if they are to be chosen, validate and test the committee.

    Returns:
        The record of the test, and the test ranks.
    """
    size = settings.eval_batch_size or min(run.settings.eval_batch_size for run in runs)
    chosen = {"weights_from": settings.weights if not parse_weights(settings.weights) else "given"}
    if settings.weights == "validation":
        committee.weights, n_tried = choose_weights(committee, data, settings.choose_by, size, device)
        chosen |= {"choose_by": settings.choose_by, "weights_tried": n_tried}
    validation = evaluate_ranking(committee, data, data.validation(), size, device)
    test = evaluate_ranking(committee, data, data.test(), size, device)
    members = [str(run.folder) for run in runs]
    record = FinalRecord(
        **test.test_metrics(),
        users=len(test.seen_kept),
        users_per_s=test.users_per_s,
        settings={"members": members, "weights": committee.weights, **chosen},
        files={name: value for run in runs for name, value in run.checksums.items()},
        peak_memory_bytes=peak_memory(device),
        **validation.validation_metrics(),
    )
    return record, test


def refuse_replacing(folder: Path, log: RunLog, overwrite: bool) -> None:
    """Keep the committee from replacing a training, and another finished run unasked.

    Raises:
        ValueError: there is one; names its file.
    """
    for name in (STATE, BEST_ADAPTER):
        if (folder / name).exists():
            raise ValueError(f"{folder / name}: a run of train_HeLLM.py has this name; use another --out")
    for path in (folder / COMMITTEE_FILE, *log.paths):
        if path.exists() and not overwrite:
            raise ValueError(f"{path}: exists already; --overwrite replaces it, another --out keeps it")


def run(settings: EnsembleSettings, folders: list[str]) -> None:
    """Evaluate a committee and write its files.

    Args:
        settings: settings of the committee.
        folders: the members' folders.

    Raises:
        FileNotFoundError: a member's file is missing; names it.
        ValueError: a member is damaged or does not fit the others, or a finished run has this name; names it.
    """
    weights = parse_weights(settings.weights) or [1.0] * len(folders)
    if len(weights) != len(folders):
        raise ValueError(f"--weights {settings.weights}: {len(weights)} for {len(folders)} members; give one each")
    runs = read_members(folders, settings.data_dir)
    first = runs[0].settings
    folder = run_folder(settings.output_dir, first.dataset, first.GNNModel, settings.out)
    logs = log_folder(settings.logging_dir, first.dataset, first.GNNModel)
    log = RunLog(logs, settings.out, f"HeLLM/{first.dataset}")
    refuse_replacing(folder, log, settings.overwrite)

    # Everything is read before the first file is written, and tested before the first file is replaced
    device = resolve_device(settings.device)
    with explain_out_of_memory():
        data, committee = load_committee(runs, weights, device)
        data = Interactions(data.path, committee.max_len)
        with (
            run_lock(log.stem, is_prefix=True, flag="--out"),
            run_lock(folder, flag="--out"),
            contextlib.closing(log),
        ):
            refuse_replacing(folder, log, settings.overwrite)  # another process may have finished meanwhile
            record, test = evaluate(settings, runs, data, committee, device)
            log.clear()
            log.info(settings_line(SETTINGS, record.settings))
            log.log_test(record)
            write_committee(folder, runs, committee.weights)
            log.write_final([], record, test)
            settings_of_run = replace(first, target=settings.out, output_dir=settings.output_dir)
            log.log_results([folder / COMMITTEE_FILE], recommend_command(settings_of_run))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    return run_program(run, *parse_args(argv))
