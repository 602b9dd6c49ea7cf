"""Pre-train SASRec: sequences to the item embeddings that fine-tuning reads beside the graph embeddings.

    python -m preprocess.pretrain_sasrec --dataset Beauty

Reads `{dataset}.txt`; writes `SASRec_item_embedding.pt` (I + 1, width), row 0 for padding, beside it.
Self-attention over the history (arXiv 1808.09781) with cross-entropy over all items at every position.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llama.linear_loss import linear_cross_entropy
from preprocess.fitting import Fit, FitSettings, check_fit, read_interactions, run_program
from utils.data import Samples, check_trainable, training_batches
from utils.evaluate import Ranking, rank_all
from utils.flags import DEEPEST, LARGEST, check_numbers, check_ranges, parse_settings
from utils.metrics import metrics

TABLE = "SASRec_item_embedding.pt"
CHOOSE_BY = "NDCG@10"  # of validation
EVAL_BATCH = 512  # users


@dataclass(frozen=True)
class SequenceSettings(FitSettings):
    """The setting that validated best on Beauty."""

    batch_size: int = 64  # users an optimiser step
    lr: float = 1e-3  # learning rate
    num_epochs: int = 200  # epochs at most
    validate_every: int = 2  # epochs between validations
    max_len: int = 50  # last items of a user that are read and trained on, both targets among them
    width: int = 64  # of the item embeddings
    hidden: int = 64  # width between them; projected where it differs
    n_layers: int = 2  # attention blocks
    n_heads: int = 2  # attention heads
    dropout: float = 0.5  # on item vectors and in the blocks
    wd: float = 0.0  # AdamW weight decay


def parse_args(argv: list[str] | None = None) -> SequenceSettings:
    """Settings of a command line. A mistake ends the program with one line and exit status 2."""
    return parse_settings(SequenceSettings, argv, "python -m preprocess.pretrain_sasrec", "Pre-train SASRec.", check)


def check(settings: SequenceSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
    problems = check_fit(settings) + check_numbers(
        settings, at_least_1=("width", "hidden", "n_heads"), at_least_0=("wd",), share=("dropout",)
    )
    problems += check_ranges(settings, n_layers=(1, DEEPEST))
    if not 4 <= settings.max_len <= LARGEST:
        problems.append(f"--max_len {settings.max_len}: from 4 (two targets, and two items to learn from) to {LARGEST}")
    if not problems and settings.hidden % settings.n_heads:
        problems.append(f"--hidden {settings.hidden}: a multiple of --n_heads {settings.n_heads}")
    return problems


class SASRec(nn.Module):
    """Causal self-attention over item embeddings, which also score the next item.

    Args:
        n_items: I; settings: sizes.
    """

    def __init__(self, n_items: int, settings: SequenceSettings) -> None:
        super().__init__()
        s = settings
        self.item_embedding = nn.Embedding(n_items + 1, s.width, padding_idx=0)
        self.scale = s.width**0.5  # of the items' vectors, which start small because they are also the output layer
        self.position_embedding = nn.Parameter(torch.zeros(s.max_len, s.hidden))
        same = s.width == s.hidden
        self.enter = nn.Identity() if same else nn.Linear(s.width, s.hidden)
        self.leave = nn.Identity() if same else nn.Linear(s.hidden, s.width)
        self.dropout = nn.Dropout(s.dropout)
        sizes = {"dim_feedforward": 4 * s.hidden, "dropout": s.dropout, "activation": "gelu"}
        block = nn.TransformerEncoderLayer(s.hidden, s.n_heads, batch_first=True, norm_first=True, **sizes)
        self.blocks = nn.TransformerEncoder(block, s.n_layers, nn.LayerNorm(s.hidden), enable_nested_tensor=False)
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0

    def hidden_states(self, items: Tensor, length: Tensor) -> Tensor:
        """Of every position: items int64 (B, T), right-padded, length int64 (B,) to float (B, T, width).

        Positions count from the end of the history, so that the newest item has the same one in all of them.
        """
        steps = items.shape[1]
        place = torch.arange(steps, device=items.device) - length[:, None]  # -1 for the newest
        x = self.enter(self.item_embedding(items + 1) * self.scale) + self.position_embedding[place.clamp(max=-1)]
        causal = nn.Transformer.generate_square_subsequent_mask(steps, device=items.device)
        return self.leave(self.blocks(self.dropout(x), mask=causal, is_causal=True))

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, width) to scores of all items (…, I)."""
        return hidden @ self.item_embedding.weight[1:].T

    def loss(self, items: Tensor, targets: Tensor, length: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the real positions, the only ones that are scored.

        All int64: items and targets (B, T), right-padded, and length (B,).
        """
        real = torch.arange(items.shape[1], device=items.device) < length[:, None]
        hidden = self.hidden_states(items, length)[real]
        return linear_cross_entropy(hidden, self.item_embedding.weight[1:], targets[real])

    def forward(self, items: Tensor, mask: Tensor | None) -> Tensor:
        """Scores of what follows: items int64 (B, T), left-padded, mask bool (B, T) or None, to (B, I)."""
        n, steps = items.shape
        length = torch.full((n,), steps, device=items.device) if mask is None else mask.sum(1)
        turned = (torch.arange(steps, device=items.device) - length[:, None]) % steps
        hidden = self.hidden_states(items.gather(1, turned), length)
        return self.scores(hidden[torch.arange(n, device=items.device), length - 1])


class SequenceTraining:
    """A training of SASRec, everything read and checked.

    Args:
        settings: of the run; device: where it is computed.

    Raises:
        FileNotFoundError, ValueError: naming file, place and remedy.
    """

    def __init__(self, settings: SequenceSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.data = data = read_interactions(settings, settings.max_len, [TABLE])
        check_trainable(data)
        users = np.flatnonzero(data.count > 3)
        # Everything before the held-out items in one sample, the last of it as the last target.
        self.samples = Samples(users, data.begin[users], data.count[users] - 3)
        self.model = SASRec(data.n_items, settings).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, weight_decay=settings.wd, fused=True)
        self.fit = Fit(settings, "SASRec", self.model, self.optimizer, CHOOSE_BY, [data.path])
        self.steps = max(len(users) // settings.batch_size, 1)  # an epoch
        self.batches: tuple[int, list[np.ndarray]] = (-1, [])  # epoch, rows of its batches

    def step(self, epoch: int, number: int) -> float:
        """One optimiser step; returns its loss in nats."""
        s, data = self.settings, self.data
        if self.batches[0] != epoch:
            self.batches = epoch, training_batches(self.samples.length, s.batch_size, s.seed, epoch)
        rows = self.batches[1][number]
        begin, length = self.samples.begin[rows, None], self.samples.length[rows]
        place = begin + np.minimum(np.arange(length.max()), length[:, None] - 1)
        batch = data.items[place], data.items[place + 1], length
        loss = self.model.loss(*(torch.from_numpy(x).to(self.device) for x in batch))
        return self.fit.descend(loss, self.samples.user[rows])

    def rank(self, samples: Samples) -> Ranking:
        return rank_all(self.model, self.data, samples, EVAL_BATCH, self.device)

    def train(self) -> None:
        """Train, choose by validation, test, write the table."""
        data, lr = self.data, self.settings.lr
        self.fit.run(self.steps, self.step, lambda epoch: lr, lambda: metrics(self.rank(data.validation()).seen_kept))
        ranking = self.rank(data.test())
        test = {"test": metrics(ranking.seen_kept), "test_unseen": metrics(ranking.seen_removed)}
        self.fit.finish({TABLE: self.model.item_embedding.weight}, test, len(data.test()), ranking)


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run_program(parse_args(argv), SequenceTraining)


if __name__ == "__main__":
    sys.exit(main())
