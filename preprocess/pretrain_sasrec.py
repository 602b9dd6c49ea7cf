"""Pre-train SASRec: sequences to the item embeddings that fine-tuning reads beside the graph embeddings.

    python -m preprocess.pretrain_sasrec --dataset Beauty

Reads `{dataset}.txt`; writes `SASRec_item_embedding.pt` (I + 1, width), row 0 for padding, beside it.
Self-attention over the history (arXiv 1808.09781) with cross-entropy over all items at every position.
"""

import sys

import numpy as np
import torch

from preprocess.pretraining.sasrec import SASRec, SequenceSettings
from preprocess.pretraining.trainer import (
    PretrainTrainer,
    open_training_data,
    run_pretraining,
    validate_pretrain_settings,
)
from utils.cli.flags import parse_settings
from utils.cli.validation import MAX_COUNT, MAX_LAYERS, check_numbers, check_ranges
from utils.data.batches import collate, training_batches
from utils.data.interactions import Samples, require_trainable
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import Ranking, evaluate_ranking

EMBEDDING_FILE = "SASRec_item_embedding.pt"
CHOOSE_BY = "NDCG@10"  # of validation
EVAL_BATCH = 512  # users


def parse_args(argv: list[str] | None = None) -> SequenceSettings:
    """Settings of a command line. A mistake ends the program with one line and exit status 2."""
    return parse_settings(
        SequenceSettings, argv, "python -m preprocess.pretrain_sasrec", "Pre-train SASRec.", validate_settings
    )


def validate_settings(settings: SequenceSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    problems = validate_pretrain_settings(settings) + check_numbers(
        settings, at_least_1=("width", "hidden", "n_heads"), at_least_0=("wd",), share=("dropout",)
    )
    problems += check_ranges(settings, n_layers=(1, MAX_LAYERS))
    if not 4 <= settings.max_len <= MAX_COUNT:
        problems.append(
            f"--max_len {settings.max_len}: from 4 (two targets, and two items to learn from) to {MAX_COUNT}"
        )
    if not problems and settings.hidden % settings.n_heads:
        problems.append(f"--hidden {settings.hidden}: a multiple of --n_heads {settings.n_heads}")
    return problems


class SequenceTraining:
    """A training of SASRec, everything read and checked.

    Args:
        settings: of the run; device: where it is computed.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """

    def __init__(self, settings: SequenceSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.data = data = open_training_data(settings, settings.max_len, [EMBEDDING_FILE])
        require_trainable(data)
        self.samples = data.user_samples()
        self.model = SASRec(data.n_items, settings).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, weight_decay=settings.wd, fused=True)
        self.fit = PretrainTrainer(settings, "SASRec", self.model, self.optimizer, CHOOSE_BY, [data.path])
        self.steps = max(len(self.samples) // settings.batch_size, 1)  # an epoch
        self.batches: tuple[int, list[np.ndarray]] = (-1, [])  # epoch, rows of its batches

    def step(self, epoch: int, number: int) -> float:
        """One optimiser step; returns its loss in nats."""
        s = self.settings
        if self.batches[0] != epoch:
            self.batches = epoch, training_batches(self.samples.length, s.batch_size, s.seed, epoch)
        rows = self.batches[1][number]
        loss = self.model.loss(*collate(self.data, self.samples, rows, padding="right").to(self.device))
        return self.fit.descend(loss, self.samples.user[rows])

    def rank(self, samples: Samples) -> Ranking:
        return evaluate_ranking(self.model, self.data, samples, EVAL_BATCH, self.device, padding="right")

    def train(self) -> None:
        """Train, choose by validation, test, write the table."""
        data, lr = self.data, self.settings.lr
        self.fit.run(
            self.steps, self.step, lambda epoch: lr, lambda: ranking_metrics(self.rank(data.validation()).seen_kept)
        )
        ranking = self.rank(data.test())
        test = {"test": ranking_metrics(ranking.seen_kept), "test_unseen": ranking_metrics(ranking.seen_removed)}
        self.fit.finish({EMBEDDING_FILE: self.model.item_embedding.weight}, test, len(data.test()), ranking)


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_pretraining(parse_args(argv), SequenceTraining)


if __name__ == "__main__":
    sys.exit(main())
