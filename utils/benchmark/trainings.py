"""The three trainings that are measured: SASRec, MMHCL and the preset `best`, each opened up to its single steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from config_HeLLM import parse_args
from preprocess.pretrain_graph import GraphTraining
from preprocess.pretrain_sasrec import SequenceTraining
from preprocess.pretraining.graph_settings import parse_args as parse_graph_args
from preprocess.pretraining.sequence_settings import parse_args as parse_sequence_args
from preprocess.pretraining.trainer import Pretraining
from preprocess.tables import GRAPH_FLAGS
from utils.benchmark.measure import DataSettings, time_parts
from utils.benchmark.train import TrainingBenchmark
from utils.data.interactions import Interactions, Samples
from utils.evaluation.ranking import evaluate_ranking
from utils.runtime.seed import seed_everything

CPU = torch.device("cpu")
N_MODALITIES = 2  # of the item hypergraph: sentences and words, as in the README
WARM_UP_STEPS = 3


@dataclass
class OpenTraining:
    """One training whose steps can be taken one by one."""

    data: Interactions
    model: torch.nn.Module
    batches: list[Any]  # of the first epoch
    n_targets: Callable[[Any], int]  # of a batch
    take_step: Callable[[Any], object]  # trains on a batch
    rank: Callable[[Samples], object]  # ranks all items for every user of a split

    def step(self, batch: Any) -> None:
        """Train on a batch."""
        self.model.train()
        self.take_step(batch)

    def evaluate(self, samples: Samples) -> None:
        """Rank all items for every user of a split."""
        self.model.eval()
        self.rank(samples)

    def sample_batches(self, n_batches: int) -> list[Any]:
        """Return some batches of the epoch in random order, evenly spaced from the smallest to the largest."""
        ordered = sorted(self.batches, key=self.n_targets)
        n_batches = min(n_batches, len(ordered))
        middles = (np.arange(n_batches) + 0.5) * len(ordered) / n_batches
        return [ordered[i] for i in np.random.default_rng(0).permutation(middles.astype(int))]

    def time_epoch(self, n_steps: int, limit: float) -> tuple[float, int]:
        """Return the processor seconds of an epoch, and the number of timed steps that they are extrapolated from.

        Args:
            n_steps: steps to time at most, after some that warm up.
            limit: processor seconds after which no further step is timed.
        """
        timed = self.sample_batches(n_steps)
        for batch in timed[:WARM_UP_STEPS]:
            self.step(batch)
        seconds, done = time_parts([partial(self.step, batch) for batch in timed], limit)
        return seconds * len(self.batches) / len(timed), done


class GraphTrainingOnRandomNeighbours(GraphTraining):
    """Train MMHCL with random items in place of the nearest ones.

    The cost of a step is the same, no features are needed, and the search for neighbours is measured by itself.
    """

    def item_hypergraph(self) -> tuple[sp.csr_matrix, list[Path], list[str]]:
        """Return a random H (I, modalities · I) with `topk` items per hyperedge, no files, and nothing to log."""
        n_items = self.data.n_items
        n_edges = n_items * N_MODALITIES
        rng = np.random.default_rng(0)
        members = rng.integers(0, n_items, (n_edges, self.settings.topk), dtype=np.int32)
        edges = np.repeat(np.arange(n_edges, dtype=np.int32), self.settings.topk)
        entries = np.ones(edges.size, np.float32)
        return sp.csr_matrix((entries, (members.ravel(), edges)), (n_items, n_edges)), [], []


def open_mmhcl(settings: DataSettings, batch_factor: int = 1) -> OpenTraining:
    """Open MMHCL's training with the flags for a CPU; every step passes through the whole graph.

    Args:
        settings: the dataset.
        batch_factor: how many times the batch size of these flags, as the data are so many times as large.
    """
    graph_settings = parse_graph_args([*_data_flags(settings), "--overwrite", *GRAPH_FLAGS.split()])
    graph_settings = replace(graph_settings, batch_size=graph_settings.batch_size * batch_factor)
    seed_everything(graph_settings.seed)
    training = GraphTrainingOnRandomNeighbours(graph_settings, CPU)
    return _open_pretraining(training, training.batches.n_samples)


def open_sasrec(settings: DataSettings, _batch_factor: int = 1) -> OpenTraining:
    """Open SASRec's training."""
    sequence_settings = parse_sequence_args([*_data_flags(settings), "--overwrite"])
    seed_everything(sequence_settings.seed)
    training = SequenceTraining(sequence_settings, CPU)
    return _open_pretraining(training, training.batches.samples.n_targets)


def open_best(settings: DataSettings, _batch_factor: int = 1) -> OpenTraining:
    """Open the training of `best`, on random embedding tables."""
    run = TrainingBenchmark(parse_args([*_data_flags(settings), "--preset", "best", "--device", "cpu"]))

    def rank(samples: Samples) -> None:
        evaluate_ranking(run.model, run.data, samples, run.settings.eval_batch_size, CPU, run.model.padding)

    return OpenTraining(run.data, run.model, run.batches, run.samples.n_targets, run.step, rank)


TRAININGS = {"SASRec": open_sasrec, "MMHCL": open_mmhcl, "best": open_best}


def _open_pretraining(training: Pretraining, n_targets: Callable[[Any], int]) -> OpenTraining:
    loop = training.loop()

    def step(batch: Any) -> None:
        loop.step(batch, training.settings.lr)
        loop.read_losses()

    batches = list(training.batches.epoch(0))
    return OpenTraining(training.data, training.model, batches, n_targets, step, training.evaluate)


def _data_flags(settings: DataSettings) -> list[str]:
    return ["--dataset", settings.dataset, "--data_dir", settings.data_dir]
