"""Graph-enhanced adapter: bimap pooling of a history's graph embeddings, key/value perceptrons, learned prefix."""

import torch
from torch import Tensor, nn

from llama.model import AdapterInput, AdapterKeyValue, ModelArgs

SIDES = ("key", "value")


def bimap_pool(embeddings: Tensor, mean: bool = False) -> Tensor:
    """Return G = EᵀE of each history, flattened (docs/method.md, section 3).

    Args:
        embeddings: E, float (B, T, d_g); rows of zeros are padding.
        mean: divide by the number of rows that are not zero. An item whose embedding is zero counts as padding here,
            but not in `cumulative_bimap_pool`.

    Returns:
        (B, d_g²).
    """
    pooled = (embeddings.transpose(1, 2) @ embeddings).flatten(1)
    if mean:
        pooled = pooled / embeddings.any(2).sum(1, keepdim=True).clamp(min=1)
    return pooled


def cumulative_bimap_pool(embeddings: Tensor, mean: bool = False) -> Tensor:
    """Return G after every item of a history, G_t = G_{t−1} + e_t e_tᵀ.

    Args:
        embeddings: float (B, T, d_g); padding, if any, comes last.
        mean: divide G_t by t, the number of items so far. An item whose embedding is zero counts, unlike in
            `bimap_pool`.

    Returns:
        (B, T, d_g²).
    """
    pooled = (embeddings[..., None] * embeddings[..., None, :]).flatten(2)
    length = pooled.shape[1]
    if torch.are_deterministic_algorithms_enabled():  # cumsum is not deterministic on CUDA
        pooled = torch.ones(length, length, dtype=pooled.dtype, device=pooled.device).tril() @ pooled
    else:
        pooled = pooled.cumsum(1)
    if mean:
        pooled = pooled / torch.arange(1, length + 1, device=pooled.device)[:, None]
    return pooled


def _mlp(pooled_dim: int, dim: int, dropout: float) -> nn.Sequential:
    """Make the perceptron from the pooled graph to the model width: (…, d_g²) to (…, D)."""
    return nn.Sequential(
        nn.Linear(pooled_dim, pooled_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(pooled_dim, dim),
        nn.GELU(),
        nn.Dropout(dropout),
    )


class GraphAdapter(nn.Module):
    """Inputs of A extra key/value positions in every layer: norm(learned prefix + graph vector).

    The prefix has one vector per layer and slot. The graph vector is norm_pre(bridge(pooled graph)), the same for all
    layers and slots of a history; norm_pre gives it the scale that the prefix starts with.

    Args:
        args: sizes of the transformer, and how many adapter positions it has.
        graph_dim: d_g.
        learned_prefix: whether there is a prefix.
        graph_vector: whether there is a graph vector.
        graph_rank: r of the low-rank bimap (E W)ᵀ(E W), W (d_g, r) learned; r² then replaces d_g². 0: none.
        graph_mean: divide the pooled graph by the history's length.
        graph_dropout: dropout in the perceptrons.
    """

    def __init__(
        self,
        args: ModelArgs,
        graph_dim: int,
        learned_prefix: bool,
        graph_vector: bool,
        graph_rank: int,
        graph_mean: bool,
        graph_dropout: float,
    ) -> None:
        super().__init__()
        self.n_layers = args.n_layers
        self.learned_prefix = learned_prefix
        self.graph_vector = graph_vector
        self.graph_mean = graph_mean
        self.norm = nn.ModuleDict({side: nn.RMSNorm(args.dim, eps=args.norm_eps) for side in SIDES})
        if graph_vector:
            rank = graph_rank or graph_dim
            self.bimap = nn.Linear(graph_dim, rank, bias=False) if graph_rank else nn.Identity()
            self.bridge = nn.ModuleDict({side: _mlp(rank**2, args.dim, graph_dropout) for side in SIDES})
            self.norm_pre = nn.ModuleDict({side: nn.RMSNorm(args.dim, eps=args.norm_eps) for side in SIDES})
        if learned_prefix:
            shape = (args.n_layers, args.n_adapter_positions, args.dim)
            for side in SIDES:  # no ParameterDict: saved adapters name these prefix_key and prefix_value
                self.register_parameter(f"prefix_{side}", nn.Parameter(torch.empty(shape)))

    def reset_parameters(self) -> None:
        """Initialise the learned prefix from N(0, 1); the perceptrons keep PyTorch's default."""
        for prefix in self.parameters(recurse=False):
            nn.init.normal_(prefix)

    def forward(self, embeddings: Tensor, cumulative: bool = False) -> list[AdapterKeyValue]:
        """Return each layer's key and value inputs.

        Args:
            embeddings: graph embeddings of the histories, float (B, T, d_g), zero at padding.
            cumulative: pool each history up to every position, not only all of it.

        Returns:
            One pair per layer; each history is (B, D), cumulative (B, T, D), or None without graph vector.
        """
        graph_vectors = {}
        if self.graph_vector:
            pool = cumulative_bimap_pool if cumulative else bimap_pool
            pooled = pool(self.bimap(embeddings), self.graph_mean)
            for side in SIDES:
                graph_vectors[side] = self.norm_pre[side](self.bridge[side](pooled).float())
        return self._inputs_per_layer(graph_vectors)

    def prefix_inputs(self) -> list[AdapterKeyValue]:
        """Return each layer's key and value inputs from the learned prefix alone."""
        return self._inputs_per_layer({})

    def _inputs_per_layer(self, graph_vectors: dict[str, Tensor]) -> list[AdapterKeyValue]:
        """Return each layer's key and value inputs from graph vectors (…, D) per side, or from none."""
        sides = [self._normalized_inputs(side, graph_vectors.get(side)) for side in SIDES]
        return list(zip(*sides, strict=True))

    def _normalized_inputs(self, side: str, history: Tensor | None) -> list[AdapterInput]:
        """Return norm(slot + history) in each layer as scale · (γ·slot + γ·history).

        RMSNorm needs the mean of (slot + history)² = slot² + 2·slot·history + history². Only slot·history depends on
        both, and it is one matrix product for all layers.
        """
        norm = self.norm[side]
        slots = [None] * self.n_layers
        mean_square = 0.0  # becomes (…, L or 1, A or 1)
        with torch.autocast(norm.weight.device.type, enabled=False):
            if history is not None:
                mean_square = history.square().mean(-1)[..., None, None]
            if self.learned_prefix:
                prefix = getattr(self, f"prefix_{side}")  # (L, A, D)
                mean_square = mean_square + prefix.square().mean(-1)
                if history is not None:
                    products = (history @ prefix.flatten(0, 1).T).unflatten(-1, prefix.shape[:2])
                    mean_square = mean_square + products * (2 / prefix.shape[-1])
                slots = (prefix * norm.weight).unbind(0)
            scales = (mean_square + norm.eps).rsqrt()
            scales = scales.expand(*scales.shape[:-2], self.n_layers, -1).unbind(-2)
            history = None if history is None else history * norm.weight
        return [AdapterInput(slot, history, scale) for slot, scale in zip(slots, scales, strict=True)]
