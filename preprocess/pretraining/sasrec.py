"""SASRec: self-attention over the history, a softmax over items at every position (arXiv 1808.09781)."""

import torch
from torch import Tensor, nn

from llama.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from preprocess.pretraining.sequence_settings import SequenceSettings


class SASRec(nn.Module):
    """Causal self-attention over item embeddings, which also score the next item.

    Args:
        n_items: number of items, I.
        settings: sizes and dropout.
    """

    def __init__(self, n_items: int, settings: SequenceSettings) -> None:
        super().__init__()
        s = settings
        self.n_negatives = s.n_negatives
        self.item_embedding = nn.Embedding(n_items + 1, s.width, padding_idx=0)
        self.scale = (
            s.width**0.5
        )  # of the item vectors, which are initialised small because they are also the output layer
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

    def hidden_states(self, items: Tensor, mask: Tensor | None) -> Tensor:
        """Encode every position.

        Positions are counted from the newest item, -1, back: it has the same embedding in all histories.

        Args:
            items: int64 (B, T), oldest first, padded on the right.
            mask: bool (B, T), False at padding; None where no row is padded.

        Returns:
            (B, T, width).
        """
        length = items.shape[1]
        if mask is None:
            mask = torch.ones_like(items, dtype=torch.bool)
        position = torch.arange(length, device=items.device) - mask.sum(1, keepdim=True)
        position = position.clamp(max=-1)  # of padding, where any will do
        x = self.enter(self.item_embedding(items + 1) * self.scale) + self.position_embedding[position]
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=items.device)
        return self.leave(self.blocks(self.dropout(x), mask=causal, is_causal=True))

    def scores(self, hidden: Tensor) -> Tensor:
        """Map hidden states (…, width) to scores of all items (…, I)."""
        return hidden @ self.item_embedding.weight[1:].T

    def loss(self, items: Tensor, mask: Tensor | None, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats over the real positions, the only ones that are scored.

        The softmax is over all items, or over the target and `n_negatives` sampled ones.

        Args:
            items: as in `hidden_states`.
            mask: as in `hidden_states`.
            targets: int64 (B, T), the item that follows each position.
        """
        hidden = self.hidden_states(items, mask).flatten(0, 1)
        targets = targets.flatten()
        if mask is not None:
            hidden = hidden[mask.flatten()]
            targets = targets[mask.flatten()]
        weight = self.item_embedding.weight[1:]
        if 0 < self.n_negatives < len(weight):
            negatives = torch.randperm(len(weight), device=hidden.device)[: self.n_negatives]
            return sampled_cross_entropy(hidden, weight, targets, negatives)
        return linear_cross_entropy(hidden, weight, targets)

    def forward(self, items: Tensor, mask: Tensor | None) -> Tensor:
        """Score every item as the next one of each history: (B, I). Arguments as in `hidden_states`."""
        hidden = self.hidden_states(items, mask)
        newest = items.shape[1] - 1 if mask is None else mask.sum(1) - 1
        return self.scores(hidden[torch.arange(len(items), device=items.device), newest])
