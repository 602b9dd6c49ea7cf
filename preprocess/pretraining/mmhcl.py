"""MMHCL: graph embeddings of users and items from interactions and two hypergraphs (arXiv 2504.16576)."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocess.pretraining.hypergraph import InteractionGraph, ItemHypergraph, UserHypergraph

CF_MODELS = ("LightGCN", "NGCF", "MF")
BLOCK_ELEMENTS = 2**24  # similarities at a time in the contrastive loss: 64 MiB


class CollaborativeEncoder(nn.Module):
    """Tables of users and items, and how they are propagated over the interaction graph.

    LightGCN: the mean over layers 0 … n. NGCF: the same mean over transformed, normalised layers. MF: the tables.

    Args:
        kind: one of CF_MODELS; n_layers: of propagation.
        R: binary (U, I); width: of both tables.
    """

    def __init__(self, kind: str, R: sp.csr_matrix, width: int, n_layers: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.kind, self.n_layers, self.dropout = kind, 0 if kind == "MF" else n_layers, dropout
        self.user_embedding, self.item_embedding = new_table(R.shape[0], width), new_table(R.shape[1], width)
        self.graph = InteractionGraph(R)
        n_linear = self.n_layers if kind == "NGCF" else 0
        self.sums = nn.ModuleList(nn.Linear(width, width) for _ in range(n_linear))
        self.products = nn.ModuleList(nn.Linear(width, width) for _ in range(n_linear))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns: users (U, d), items (I, d)."""
        layers = [(self.user_embedding, self.item_embedding)]
        users, items = layers[0]
        for layer in range(self.n_layers):
            near = self.graph(users, items)
            if self.kind == "NGCF":
                pairs = zip((users, items), near, strict=True)
                users, items = (self._transform(layer, own, from_others) for own, from_others in pairs)
                layers.append((F.normalize(users, dim=1), F.normalize(items, dim=1)))
            else:
                users, items = near
                layers.append(near)
        users, items = (sum(side) / len(layers) for side in zip(*layers, strict=True))
        return users, items

    def _transform(self, layer: int, own: Tensor, near: Tensor) -> Tensor:
        mixed = F.leaky_relu(self.sums[layer](near + own)) + F.leaky_relu(self.products[layer](own * near))
        return F.dropout(mixed, self.dropout, self.training)


def new_table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))


@dataclass
class Embeddings:
    """What one pass of MMHCL gives; a side without hypergraph has None."""

    users: Tensor  # (U, d), fused
    items: Tensor  # (I, d), fused
    user_view: Tensor | None  # (U, d), from the user hypergraph alone
    item_view: Tensor | None  # (I, d), from the item hypergraph alone


class MMHCL(nn.Module):
    """The model; without either hypergraph it is the collaborative part alone.

    Args:
        R: binary (U, I); H: binary (I, E), None without the item hypergraph.
        user_layers, item_layers: of the hypergraphs; user_layers 0 leaves the user hypergraph out.
    """

    def __init__(
        self, cf: CollaborativeEncoder, R: sp.csr_matrix, H: sp.csr_matrix | None, user_layers: int, item_layers: int
    ) -> None:
        super().__init__()
        width = cf.user_embedding.shape[1]
        self.cf, self.user_layers, self.item_layers = cf, user_layers, item_layers
        if user_layers:
            self.user_hypergraph, self.uu = UserHypergraph(R), new_table(R.shape[0], width)
        if H is not None:
            self.item_hypergraph, self.ii = ItemHypergraph(H), new_table(R.shape[1], width)
        self.has_items = H is not None

    def forward(self) -> Embeddings:
        users, items = self.cf()
        user_view = item_view = None
        if self.user_layers:
            user_view = self.uu
            for _ in range(self.user_layers):
                user_view = self.user_hypergraph(user_view)
            users = users + F.normalize(user_view, dim=1)
        if self.has_items:
            item_view = self.ii
            for _ in range(self.item_layers):
                item_view = self.item_hypergraph(item_view)
            items = items + F.normalize(item_view, dim=1)
        return Embeddings(users, items, user_view, item_view)


def bpr_loss(users: Tensor, positive: Tensor, negative: Tensor, regs: float) -> Tensor:
    """Bayesian personalised ranking with the squared norms of the batch, in nats. All (B, d)."""
    difference = (users * (positive - negative)).sum(1)
    norms = sum((x * x).sum() for x in (users, positive, negative)) / 2
    return F.softplus(-difference).mean() + regs * norms / len(users)


def contrastive_loss(z: Tensor, view: Tensor, tau: float, anchors: Tensor | None = None) -> Tensor:
    """Mean over anchors a of −log(e^{z_a·v_a/τ} / (Σ_b e^{z_a·v_b/τ} + Σ_{b≠a} e^{z_a·z_b/τ})), rows L2-normalised.

    The gradient is made block by block along with the loss, so that memory does not grow with nodes².

    Args:
        z, view: (N, d), the fused and the hypergraph's embeddings; tau: temperature.
        anchors: int64 (n,), the nodes of the mean; a uniform sample estimates the mean over all nodes
            (None) without bias, because the denominators still run over all nodes.
    """
    return _Contrastive.apply(F.normalize(z, dim=1), F.normalize(view, dim=1), tau, anchors)


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, view: Tensor, tau: float, anchors: Tensor | None) -> Tensor:
        n = len(z)
        if anchors is None:
            anchors = torch.arange(n, device=z.device)
        both = torch.cat([view, z])  # (2N, d)
        gradient, loss = torch.zeros_like(both), z.new_zeros((), dtype=torch.float64)
        size = max(BLOCK_ELEMENTS // (2 * n) // 64, 1) * 64  # rows of whole cache lines: twice as fast
        space = both.new_empty(2 * n * min(size, len(anchors)))  # one for all blocks: fresh memory is slow to touch
        for a in anchors.split(size):
            column = torch.arange(len(a), device=z.device)
            scaled = z[a] / tau
            # Nodes in rows: this product is nearly twice as fast as with anchors in rows.
            weight = torch.mm(both, scaled.T, out=space[: 2 * n * len(a)].view(2 * n, len(a)))
            positive = weight[a, column]
            weight.exp_()  # of at most 1/τ, so no shift is needed
            weight[n + a, column] = 0
            total = weight.sum(0)
            loss += (total.double().log() - positive).sum()
            gradient.addmm_(weight, scaled / total[:, None])
            gradient[a] -= scaled
            gradient[n + a] += (weight.T @ both / total[:, None] - both[a]) / tau
        gradient /= len(anchors)
        ctx.save_for_backward(gradient)
        return (loss / len(anchors)).to(z.dtype)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        (gradient,) = ctx.saved_tensors
        view, z = (upstream * gradient).chunk(2)
        return z, view, None, None


class BatchSampler:
    """Batches of distinct users, each with one item bought and one not bought.

    Args:
        R: binary (U, I) with sorted rows.
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        self.count = np.diff(R.indptr)
        self.users = np.flatnonzero((self.count > 0) & (self.count < R.shape[1]))
        self.R, self.n_items = R, R.shape[1]
        self.bought = np.repeat(np.arange(R.shape[0]), self.count) * self.n_items + R.indices  # sorted pairs

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns: users, bought items, items not bought, int64 (min(size, users with items),)."""
        users = rng.choice(self.users, min(size, len(self.users)), replace=False)
        positive = self.R.indices[self.R.indptr[users] + rng.integers(0, self.count[users])]
        negative = rng.integers(0, self.n_items, len(users))
        again = np.flatnonzero(self._is_bought(users, negative))
        while len(again):
            negative[again] = rng.integers(0, self.n_items, len(again))
            again = again[self._is_bought(users[again], negative[again])]
        return users, positive.astype(np.int64), negative

    def _is_bought(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        pairs = users * self.n_items + items
        place = np.searchsorted(self.bought, pairs)
        return self.bought[np.minimum(place, len(self.bought) - 1)] == pairs
