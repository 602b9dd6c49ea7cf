"""MMHCL: graph embeddings of users and items from interactions and two hypergraphs (arXiv 2504.16576)."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocess.pretraining.hypergraph import InteractionGraph, ItemHypergraph, UserHypergraph

BLOCK_ELEMENTS = 2**24  # similarities per block of the contrastive loss: 64 MiB
ANCHORS_MULTIPLE = 64  # a block has a multiple of this many anchors, its columns, which is twice as fast


class CollaborativeEncoder(nn.Module):
    """Propagate user and item embeddings over the interaction graph.

    LightGCN: the mean over layers 0 … n. NGCF: the same mean over transformed, normalised layers. MF: the embeddings.

    Args:
        kind: LightGCN, NGCF or MF.
        R: binary (U, I), who bought what.
        width: d of both embeddings.
        n_layers: number of propagation layers.
        dropout: dropout of NGCF's layers.
    """

    def __init__(self, kind: str, R: sp.csr_matrix, width: int, n_layers: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.kind = kind
        self.n_layers = 0 if kind == "MF" else n_layers
        self.dropout = dropout
        n_users, n_items = R.shape
        self.user_embedding = new_embedding(n_users, width)
        self.item_embedding = new_embedding(n_items, width)
        self.graph = InteractionGraph(R)
        n_linear = self.n_layers if kind == "NGCF" else 0
        self.sums = nn.ModuleList(nn.Linear(width, width) for _ in range(n_linear))
        self.products = nn.ModuleList(nn.Linear(width, width) for _ in range(n_linear))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the propagated embeddings of users (U, d) and items (I, d)."""
        users, items = self.user_embedding, self.item_embedding
        user_layers = [users]
        item_layers = [items]
        for layer in range(self.n_layers):
            from_items, from_users = self.graph(users, items)
            if self.kind == "NGCF":
                users = self._ngcf_layer(layer, users, from_items)
                items = self._ngcf_layer(layer, items, from_users)
                user_layers.append(F.normalize(users, dim=1))
                item_layers.append(F.normalize(items, dim=1))
            else:
                users, items = from_items, from_users
                user_layers.append(users)
                item_layers.append(items)
        return sum(user_layers) / len(user_layers), sum(item_layers) / len(item_layers)

    def _ngcf_layer(self, layer: int, x: Tensor, neighbours: Tensor) -> Tensor:
        """Return dropout(leaky_relu(W₁(x + n)) + leaky_relu(W₂(x ⊙ n))), n the sum over the neighbours of x."""
        from_sum = F.leaky_relu(self.sums[layer](neighbours + x))
        from_product = F.leaky_relu(self.products[layer](x * neighbours))
        return F.dropout(from_sum + from_product, self.dropout, self.training)


def new_embedding(rows: int, width: int) -> nn.Parameter:
    """Initialise an embedding by Xavier's uniform distribution: float32 (rows, width)."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))


@dataclass
class Embeddings:
    """Output of MMHCL; the view of a side without hypergraph is None."""

    users: Tensor  # (U, d), fused
    items: Tensor  # (I, d), fused
    user_view: Tensor | None  # (U, d), from the user hypergraph alone, rows of length 1
    item_view: Tensor | None  # (I, d), from the item hypergraph alone, rows of length 1


class MMHCL(nn.Module):
    """Add normalised hypergraph views to the collaborative embeddings; without hypergraphs, return the latter alone.

    Args:
        cf: collaborative part.
        R: binary (U, I), who bought what.
        H: binary (I, E), items by hyperedges; None: no item hypergraph.
        user_layers: layers of the user hypergraph; 0: no user hypergraph.
        item_layers: layers of the item hypergraph.
    """

    def __init__(
        self, cf: CollaborativeEncoder, R: sp.csr_matrix, H: sp.csr_matrix | None, user_layers: int, item_layers: int
    ) -> None:
        super().__init__()
        n_users, n_items = R.shape
        width = cf.user_embedding.shape[1]
        self.cf = cf
        self.user_layers = user_layers
        self.item_layers = item_layers
        self.has_item_hypergraph = H is not None
        if user_layers:
            self.user_hypergraph = UserHypergraph(R)
            self.uu = new_embedding(n_users, width)
        if H is not None:
            self.item_hypergraph = ItemHypergraph(H)
            self.ii = new_embedding(n_items, width)

    def forward(self) -> Embeddings:
        """Return all embeddings."""
        users, items = self.cf()
        user_view = None
        item_view = None
        if self.user_layers:
            user_view = self.uu
            for _ in range(self.user_layers):
                user_view = self.user_hypergraph(user_view)
            user_view = F.normalize(user_view, dim=1)
            users = users + user_view
        if self.has_item_hypergraph:
            item_view = self.ii
            for _ in range(self.item_layers):
                item_view = self.item_hypergraph(item_view)
            item_view = F.normalize(item_view, dim=1)
            items = items + item_view
        return Embeddings(users, items, user_view, item_view)


def bpr_loss(users: Tensor, positive: Tensor, negative: Tensor, regs: float) -> Tensor:
    """Return the loss of Bayesian personalised ranking in nats: mean of −log σ(u·p − u·n), plus the batch's norms.

    Args:
        users: (B, d), u.
        positive: (B, d), p, items bought.
        negative: (B, d), n, items not bought.
        regs: weight of the mean of (|u|² + |p|² + |n|²) / 2.
    """
    difference = (users * (positive - negative)).sum(1)
    squared_norms = sum((x * x).sum() for x in (users, positive, negative)) / 2
    return F.softplus(-difference).mean() + regs * squared_norms / len(users)


def contrastive_loss(z: Tensor, view: Tensor, tau: float, anchors: Tensor | None = None) -> Tensor:
    """Return the mean over anchors a of −log(e^{z_a·v_a/τ} / (Σ_b e^{z_a·v_b/τ} + Σ_{b≠a} e^{z_a·z_b/τ})), in nats.

    Rows of z are L2-normalised here. The gradient is computed block by block along with the loss, so that memory does
    not grow with nodes².

    Args:
        z: (N, d), the fused embeddings.
        view: (N, d), v, the hypergraph's embeddings, rows of length 1 (or 0).
        tau: temperature τ.
        anchors: int64 (n,), the nodes of the mean, distinct; None: all. A uniform sample estimates the mean over all
            nodes without bias, because the denominators still run over all nodes.
    """
    return _Contrastive.apply(F.normalize(z, dim=1), view, tau, anchors)


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, view: Tensor, tau: float, anchors: Tensor | None) -> Tensor:
        n = len(z)
        if anchors is None:
            anchors = torch.arange(n, device=z.device)
        nodes = torch.cat([view, z])  # (2N, d)
        gradient = torch.zeros_like(nodes)
        loss = z.new_zeros((), dtype=torch.float64)
        block_size = max(BLOCK_ELEMENTS // (2 * n) // ANCHORS_MULTIPLE, 1) * ANCHORS_MULTIPLE
        buffer = nodes.new_empty(2 * n * min(block_size, len(anchors)))  # reused: touching fresh memory is slow
        for a in anchors.split(block_size):
            column = torch.arange(len(a), device=z.device)
            scaled = z[a] / tau
            # Nodes in rows: this product is nearly twice as fast as with anchors in rows
            weight = torch.mm(nodes, scaled.T, out=buffer[: 2 * n * len(a)].view(2 * n, len(a)))
            positive = weight[a, column]
            weight.exp_()  # exponents are at most 1/τ, so no shift is needed
            weight[n + a, column] = 0  # b ≠ a
            total = weight.sum(0)
            loss += (total.double().log() - positive).sum()
            gradient.addmm_(weight, scaled / total[:, None])  # of all nodes, by the denominators
            gradient[a] -= scaled  # of the views, by the numerators; needs distinct anchors, as the next line does
            gradient[n + a] += (weight.T @ nodes / total[:, None] - nodes[a]) / tau  # of the anchors
        ctx.save_for_backward(gradient)
        ctx.n_anchors = len(anchors)
        return (loss / len(anchors)).to(z.dtype)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        grad_view, grad_z = (gradient * (grad_output / ctx.n_anchors)).chunk(2)
        return grad_z, grad_view, None, None


class BatchSampler:
    """Sample batches of distinct users, each with one item bought and one not bought.

    Args:
        R: binary (U, I) with sorted rows.
    """

    def __init__(self, R: sp.csr_matrix) -> None:
        n_users, n_items = R.shape
        self.R = R
        self.n_items = n_items
        self.n_bought = np.diff(R.indptr)
        self.users = np.flatnonzero((self.n_bought > 0) & (self.n_bought < n_items))
        self.interaction_keys = self._key(np.repeat(np.arange(n_users), self.n_bought), R.indices)  # sorted

    def sample(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return users, bought items and items not bought: int64 (min(size, users with items),) each."""
        users = rng.choice(self.users, min(size, len(self.users)), replace=False)
        positive = self.R.indices[self.R.indptr[users] + rng.integers(0, self.n_bought[users])]
        negative = rng.integers(0, self.n_items, len(users))
        rejected = np.flatnonzero(self._is_bought(users, negative))
        while len(rejected):
            negative[rejected] = rng.integers(0, self.n_items, len(rejected))
            rejected = rejected[self._is_bought(users[rejected], negative[rejected])]
        return users, positive.astype(np.int64), negative

    def _key(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return one integer per (user, item)."""
        return users * self.n_items + items

    def _is_bought(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        keys = self._key(users, items)
        index = np.searchsorted(self.interaction_keys, keys)
        return self.interaction_keys[np.minimum(index, len(self.interaction_keys) - 1)] == keys
