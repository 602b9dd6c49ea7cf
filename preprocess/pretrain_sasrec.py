"""Pre-train SASRec, whose item embeddings fine-tuning reads beside the graph embeddings.

    python -m preprocess.pretrain_sasrec --dataset Beauty

Reads `{dataset}.txt`; writes `SASRec_item_embedding.pt` (I + 1, width), row 0 for padding, beside it.
Self-attention over the history (arXiv 1808.09781) with a sampled softmax at every position.
"""

import sys
from collections.abc import Callable

from preprocess.pretraining.sequence_settings import SequenceSettings, parse_args

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_args()

import numpy as np
import torch
from torch import Tensor

from preprocess.pretraining.sasrec import SASRec
from preprocess.pretraining.trainer import Pretraining, open_training_data, run_pretraining
from utils.data.batches import collate
from utils.data.interactions import Samples, require_trainable
from utils.evaluation.metrics import Ranking
from utils.evaluation.ranking import evaluate_ranking
from utils.training.sample_batches import SampleBatches
from utils.training.schedule import learning_rate

EMBEDDING_FILE = "SASRec_item_embedding.pt"
EVAL_BATCH_SIZE = 512  # users per forward pass


class SequenceTraining(Pretraining):
    """Train SASRec on the sequences of an interaction file.

    Args:
        settings: settings of the run.
        device: where it is computed.

    Raises:
        FileNotFoundError, ValueError: naming file, line and remedy.
    """

    def __init__(self, settings: SequenceSettings, device: torch.device) -> None:
        self.device = device
        self.data = open_training_data(settings, settings.max_len, [EMBEDDING_FILE])
        require_trainable(self.data)
        batches = SampleBatches(self.data.user_samples(), settings.batch_size, settings.seed, settings.tokens_per_batch)
        model = SASRec(self.data.n_items, settings).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.wd, fused=True)
        super().__init__(settings, "SASRec", batches, model, optimizer, settings.choose_by, [self.data.path])

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at this (fractional) epoch: an epoch of linear warm-up, then half a cosine."""
        return learning_rate(epoch, self.settings.lr, 0.0, 1, self.settings.num_epochs)

    def loss(self, batch: np.ndarray) -> Tensor:
        """Return the mean loss over all positions of a batch, nats."""
        return self.model.loss(*collate(self.data, self.batches.samples, batch, padding="right").to(self.device))

    def evaluate(self, samples: Samples) -> Ranking:
        """Rank all items for every user of a split."""
        return evaluate_ranking(self.model, self.data, samples, EVAL_BATCH_SIZE, self.device, padding="right")

    def validate(self, _check_signals: Callable[[], None]) -> dict[str, dict[str, float]]:
        """Return the validation metrics."""
        return self.evaluate(self.data.validation()).validation_metrics()

    def test(self) -> tuple[dict[str, dict[str, float]], int, Ranking]:
        """Return the test metrics, the number of users, and their ranks."""
        samples = self.data.test()
        ranking = self.evaluate(samples)
        return ranking.test_metrics(), len(samples), ranking

    def tables(self) -> dict[str, Tensor]:
        """Return the item table."""
        return {EMBEDDING_FILE: self.model.item_embedding.weight}


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_pretraining(parse_args(argv), SequenceTraining)


if __name__ == "__main__":
    sys.exit(main())
