"""Graph-enhanced adapter: bimap pooling of a history's graph embeddings, key/value bridge, learned prefix."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llama.model import ModelArgs


def bimap_pool(embeddings: Tensor) -> Tensor:
    """G = EᵀE of each history, flattened: (B, T, d_g), padded rows zero, to (B, d_g²) (SPEC.md section 3)."""
    return (embeddings.transpose(1, 2) @ embeddings).flatten(1)


def _bridge(pooled: int, dim: int, dropout: float) -> nn.Sequential:
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
            self.bridge = nn.ModuleDict({side: _bridge(rank**2, args.dim, args.graph_dropout) for side in sides})
            self.norm_pre = nn.ModuleDict({side: nn.RMSNorm(args.dim, eps=args.norm_eps) for side in sides})
        if args.prefix_adapter:
            shape = (args.n_layers, args.adapter_len, args.dim)
            for side in sides:
                self.register_parameter(f"prefix_{side}", nn.Parameter(torch.empty(shape)))

    def reset_parameters(self) -> None:
        """Draw the learned prefix from N(0, 1); the parts of the bridge know how to start themselves."""
        for prefix in self.parameters(recurse=False):
            nn.init.normal_(prefix)

    def forward(self, embeddings: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each layer's key and value inputs, computed when asked for.

        Args:
            embeddings: graph embeddings of the histories (B, T, d_g), padded rows zero.

        Yields: two tensors (B, A, D), with 1 in place of B or A where all rows or slots are the same.
        """
        graph = {}
        if self.args.graph_adapter:
            pooled = bimap_pool(self.bimap(embeddings))
            # Normalised once a history; only then broadcast over slots.
            graph = {side: self.norm_pre[side](bridge(pooled).float())[:, None] for side, bridge in self.bridge.items()}
        for layer in range(self.args.n_layers):
            yield self._side("key", graph, layer), self._side("value", graph, layer)

    def _side(self, side: str, graph: dict[str, Tensor], layer: int) -> Tensor:
        parts = [graph[side]] if self.args.graph_adapter else []
        if self.args.prefix_adapter:
            parts.append(getattr(self, f"prefix_{side}")[layer][None])
        return self.norm[side](sum(parts[1:], parts[0]))
