"""Graph-enhanced adapter: bimap pooling of a history's graph embeddings, key/value bridge, learned prefix."""

import torch
from torch import Tensor, nn

from llama.model import AdapterInput, ModelArgs


def bimap_pool(embeddings: Tensor, mean: bool = False) -> Tensor:
    """G = EᵀE of each history, flattened: (B, T, d_g), padded rows zero, to (B, d_g²) (SPEC.md section 3).

    Args:
        mean: divide by the number of rows that are not zero.
    """
    pooled = (embeddings.transpose(1, 2) @ embeddings).flatten(1)
    return pooled / embeddings.any(2).sum(1, keepdim=True).clamp(min=1) if mean else pooled


def cumulative_bimap_pool(embeddings: Tensor, mean: bool = False) -> Tensor:
    """G of every beginning of a history, G_t = G_{t−1} + e_t e_tᵀ: (B, T, d_g) to (B, T, d_g²).

    Args:
        mean: divide G_t by t.
    """
    pooled = (embeddings[..., None] * embeddings[..., None, :]).flatten(2)
    if torch.are_deterministic_algorithms_enabled():  # which cumsum is not on CUDA
        length = pooled.shape[1]
        pooled = torch.ones(length, length, dtype=pooled.dtype, device=pooled.device).tril() @ pooled
    else:
        pooled = pooled.cumsum(1)
    return pooled / torch.arange(1, pooled.shape[1] + 1, device=pooled.device)[:, None] if mean else pooled


def _mlp(pooled: int, dim: int, dropout: float) -> nn.Sequential:
    """Perceptron from the pooled graph to the model width: (B, d_g²) to (B, D)."""
    return nn.Sequential(
        nn.Linear(pooled, pooled),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(pooled, dim),
        nn.GELU(),
        nn.Dropout(dropout),
    )


class GraphAdapter(nn.Module):
    """Inputs of A extra key/value positions in every layer.

    One vector a history, the same for all layers and slots, plus a learned prefix a layer and slot, normalised.
    args.graph_adapter and args.prefix_adapter leave either part out. With args.graph_rank r the pooling is the
    low-rank bimap (E W)ᵀ(E W), W (d_g, r) learned, and r² takes the place of d_g².
    """

    def __init__(self, args: ModelArgs, graph_dim: int) -> None:
        super().__init__()
        self.args = args
        sides = ("key", "value")
        self.norm = nn.ModuleDict({side: nn.RMSNorm(args.dim, eps=args.norm_eps) for side in sides})
        if args.graph_adapter:
            rank = args.graph_rank or graph_dim
            self.bimap = nn.Linear(graph_dim, rank, bias=False) if args.graph_rank else nn.Identity()
            self.bridge = nn.ModuleDict({side: _mlp(rank**2, args.dim, args.graph_dropout) for side in sides})
            self.norm_pre = nn.ModuleDict({side: nn.RMSNorm(args.dim, eps=args.norm_eps) for side in sides})
        if args.prefix_adapter:
            shape = (args.n_layers, args.adapter_len, args.dim)
            for side in sides:
                self.register_parameter(f"prefix_{side}", nn.Parameter(torch.empty(shape)))

    def reset_parameters(self) -> None:
        """Draw the learned prefix from N(0, 1); the parts of the bridge know how to start themselves."""
        for prefix in self.parameters(recurse=False):
            nn.init.normal_(prefix)

    def forward(self, embeddings: Tensor, running: bool = False) -> list[tuple[AdapterInput, AdapterInput]]:
        """Each layer's key and value inputs.

        Args:
            embeddings: graph embeddings of the histories (B, T, d_g), padded rows zero.
            running: pool every beginning of the histories instead of whole ones.

        Returns: two Prefix a layer, of B rows, of (B, T) rows where running, of none without graph_adapter.
        """
        rows = {}
        if self.args.graph_adapter:
            pool = cumulative_bimap_pool if running else bimap_pool
            pooled = pool(self.bimap(embeddings), self.args.graph_mean)
            rows = {side: self.norm_pre[side](bridge(pooled).float()) for side, bridge in self.bridge.items()}
        return self.layers(rows)

    def layers(self, rows: dict[str, Tensor]) -> list[tuple[AdapterInput, AdapterInput]]:
        """Each layer's key and value inputs from the graph vectors `rows` (…, D) a side, or from none."""
        return [*zip(*(self._side(side, rows.get(side)) for side in self.norm), strict=True)]

    def _side(self, side: str, row: Tensor | None) -> list[AdapterInput]:
        """norm(slot + row) in each layer as scale · (γ·slot + γ·row).

        The scales come from |slot|², slot·row and |row|²: what a row needs by itself is computed once for all layers.
        """
        norm, slots, square = self.norm[side], [None] * self.args.n_layers, 0.0
        with torch.autocast(norm.weight.device.type, enabled=False):
            if row is not None:
                square = row.square().mean(-1)[..., None, None]
            if self.args.prefix_adapter:
                prefix = getattr(self, f"prefix_{side}")
                square = square + prefix.square().mean(-1)  # (…, L, A)
                if row is not None:
                    both = row @ prefix.flatten(0, 1).T
                    square = square + both.unflatten(-1, prefix.shape[:2]) * (2 / prefix.shape[-1])
                slots = (prefix * norm.weight).unbind(0)
            scales = (square + norm.eps).rsqrt()
            row = None if row is None else row * norm.weight
            scales = scales.expand(*scales.shape[:-2], len(slots), -1).unbind(-2)
        return [AdapterInput(slot, row, scale) for slot, scale in zip(slots, scales, strict=True)]
