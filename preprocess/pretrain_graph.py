"""Pre-train MMHCL, whose item embeddings fine-tuning reads, on interactions and item features.

    python -m preprocess.pretrain_graph --dataset Beauty
    python -m preprocess.pretrain_graph --dataset Beauty --GNNModel LightGCN

Reads `{dataset}.txt` and every `*_feat.npy`, `.npz` or `.pt` beside it; writes `{GNNModel}_user_embeddings.pt` and
`{GNNModel}_item_embeddings.pt` there, or the same under the name of --tables.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from preprocess.pretraining.graph_settings import GraphSettings, parse_args, table_names

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_args()

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from preprocess.pretraining.hypergraph import interaction_matrix, item_incidence
from preprocess.pretraining.mmhcl import (
    MMHCL,
    BatchSampler,
    CollaborativeEncoder,
    bpr_loss,
    contrastive_loss,
)
from preprocess.pretraining.trainer import Pretraining, open_training_data, run_pretraining
from utils.cli.layout import format_duration
from utils.data.feature_checks import UninformativeModalityError
from utils.data.features import choose_features, load_informative_features
from utils.data.interactions import Samples
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import rank_by_product

N_TIMED_STEPS = 3  # of a slow training, of which the fastest says what an epoch takes
CHOOSE_BY = "val.Recall@20"  # the validation metric that decides which epoch is the best


def slow_advice(step_seconds: float, n_steps: int, settings: GraphSettings) -> str:
    """Return the line on what an epoch takes on a CPU if the contrastive losses run over all nodes, and what to do."""
    epoch = step_seconds * n_steps
    return (
        f"an epoch takes about {format_duration(epoch)} on this CPU, {settings.num_epochs:,} of them at most "
        f"{format_duration(epoch * settings.num_epochs)}\n"
        "  faster: --contrastive_anchors 128 contrasts 128 nodes per step instead of all,\n"
        f"  and python -m preprocess.tables --dataset {settings.dataset} uses settings for a CPU"
    )


class GraphBatches:
    """Batches of users with a bought and another item each. A batch is the (epoch, step) that it is sampled at.

    Args:
        R: interactions, CSR (users, items).
        batch_size: users per batch, at most as many as have an item bought and one not bought.
        seed: seed of the run.
    """

    def __init__(self, R: sp.csr_matrix, batch_size: int, seed: int) -> None:
        self.sampler = BatchSampler(R)
        self.steps_per_epoch = R.nnz // batch_size + 1
        self.batch_size = batch_size
        self.seed = seed

    def epoch(self, epoch: int) -> list[tuple[int, int]]:
        """Return the batches of an epoch."""
        return [(epoch, step) for step in range(self.steps_per_epoch)]

    def n_samples(self, _batch: tuple[int, int]) -> int:
        """Return the number of users in a batch."""
        return min(self.batch_size, len(self.sampler.users))

    def users(self, batch: tuple[int, int]) -> list[int]:
        """Return the users of a batch."""
        return self.sample(self.generator(batch))[0].tolist()

    def generator(self, batch: tuple[int, int]) -> np.random.Generator:
        """Return the generator of all that is random in a batch."""
        return np.random.default_rng([self.seed, *batch])

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a batch's users, bought items and items not bought: int64 (n_samples,) each."""
        return self.sampler.sample(rng, self.batch_size)


class GraphTraining(Pretraining):
    """Train MMHCL or LightGCN on interactions and item features.

    Args:
        settings: settings of the run.
        device: where it is computed.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """

    def __init__(self, settings: GraphSettings, device: torch.device) -> None:
        s = settings
        self.settings = s  # which item_hypergraph reads
        use_hypergraphs = s.GNNModel == "MMHCL"
        self.device = device
        self.user_ratio = s.user_loss_ratio if use_hypergraphs else 0.0
        self.item_ratio = s.item_loss_ratio if use_hypergraphs else 0.0
        self.data = open_training_data(s, 0, table_names(s.name))
        self.R = interaction_matrix(*self.data.training_pairs(), (self.data.n_users, self.data.n_items))
        batches = GraphBatches(self.R, s.batch_size, s.seed)
        if not len(batches.sampler.users):
            raise ValueError(f"{self.data.path}: no user has a training item; take data with longer histories")
        H, files, lines = self.item_hypergraph()
        cf = CollaborativeEncoder(s.cf_model, self.R, s.embed_dim, s.UI_layers)
        model = MMHCL(cf, self.R, H, s.User_layers if self.user_ratio else 0, s.Item_layers).to(device)
        optimizer = torch.optim.Adam(model.parameters(), s.lr, fused=True)
        uses_all_nodes = bool(self.user_ratio or self.item_ratio) and not s.contrastive_anchors
        self.is_slow = uses_all_nodes and device.type == "cpu"
        self.step_seconds: list[float] = []  # of the first steps of a slow training
        super().__init__(s, s.name, batches, model, optimizer, CHOOSE_BY, [self.data.path, *files], lines)
        self.log.is_published_loss = not s.contrastive_anchors  # which estimate a part of it

    def item_hypergraph(self) -> tuple[sp.csr_matrix | None, list[Path], list[str]]:
        """Return the items' incidence matrix H, the files that it is made from, and lines about them for the log.

        Without weight in the loss there is no H. Features that tell no items apart are left out.
        """
        if not self.item_ratio:
            return None, [], []
        alternative = "train without item features by --item_loss_ratio 0"
        paths = choose_features(self.data.path.parent, self.settings.features, alternative)
        named = bool(self.settings.features)
        try:
            features, lines = load_informative_features(paths.values(), self.data.n_items, named)
        except UninformativeModalityError as error:
            raise UninformativeModalityError(f"{error}; or {alternative}") from error
        H = item_incidence({path.stem: matrix for path, matrix in features.items()}, self.settings.topk)
        return H, list(features), lines

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate after so many epochs: a factor 0.96 in 50 epochs."""
        return self.settings.lr * 0.96 ** (int(epoch) / 50)

    def backward(self, batch: tuple[int, int], epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of a batch; where all nodes contrast on a CPU, log once what an epoch will take."""
        started = time.perf_counter()
        result = super().backward(batch, epoch, step)
        if self.is_slow and len(self.step_seconds) < N_TIMED_STEPS:
            self.step_seconds.append(time.perf_counter() - started)
            if len(self.step_seconds) == N_TIMED_STEPS:
                self.log.info(slow_advice(min(self.step_seconds), self.batches.steps_per_epoch, self.settings))
        return result

    def loss(self, batch: tuple[int, int]) -> Tensor:
        """Return the BPR loss of a batch and, where they have weight, the contrastive losses of both hypergraphs."""
        s = self.settings
        rng = self.batches.generator(batch)
        users, positive, negative = (torch.from_numpy(x).to(self.device) for x in self.batches.sample(rng))
        out = self.model()
        loss = bpr_loss(
            F.embedding(users, out.users), F.embedding(positive, out.items), F.embedding(negative, out.items), s.regs
        )
        if self.user_ratio:
            anchors = self._sample_anchors(rng, len(out.users))
            loss = loss + self.user_ratio * contrastive_loss(out.users, out.user_view, s.tau, anchors)
        if self.item_ratio:
            anchors = self._sample_anchors(rng, len(out.items))
            loss = loss + self.item_ratio * contrastive_loss(out.items, out.item_view, s.tau, anchors)
        return loss

    def _sample_anchors(self, rng: np.random.Generator, n_nodes: int) -> Tensor | None:
        count = self.settings.contrastive_anchors
        if not 0 < count < n_nodes:
            return None
        return torch.from_numpy(rng.choice(n_nodes, count, replace=False)).to(self.device)

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> dict[str, float]:
        """Return the metrics of a split, training items taken out of the ranking."""
        out = self.model()
        _, seen_removed = rank_by_product(out.users, out.items, self.R, samples.user, self.data.targets(samples))
        return ranking_metrics(seen_removed)

    def validate(self, _check_signals: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Return the validation metrics."""
        return {"val": self.evaluate(self.data.validation())}

    def test(self) -> tuple[dict[str, dict[str, float]], int, None]:
        """Return the test metrics and the number of users."""
        samples = self.data.test()
        return {"test": self.evaluate(samples)}, len(samples), None

    @torch.no_grad()
    def tables(self) -> dict[str, Tensor]:
        """Return the tables of users and items."""
        out = self.model()
        user_file, item_file = table_names(self.settings.name)
        return {user_file: out.users, item_file: out.items}


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_pretraining(parse_args(argv), GraphTraining)


if __name__ == "__main__":
    sys.exit(main())
