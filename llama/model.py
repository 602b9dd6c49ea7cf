"""LLaMA-2 with Meta's parameter names: token table, blocks, final norm. Knows nothing of items or graphs.

Each layer takes one optional prefix: key and value inputs that every position may attend to.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fairscale.nn.model_parallel.mappings import copy_to_model_parallel_region
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama.parallel import ColumnParallelLinear, ParallelEmbedding, RowParallelLinear, init_model_parallel, mp_size


@dataclass(frozen=True)
class ModelArgs:
    """Sizes and parts of the model; the first block bears the names of Meta's params.json."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None  # None: as many as n_heads
    vocab_size: int = 32000
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of it
    ffn_dim_multiplier: float | None = None
    ffn_dim: int | None = None  # feed-forward width, where a checkpoint states it; None: Meta's rule
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_seq_len: int = 2048

    w_adapter: bool = True  # adapter key/value positions in every layer
    adapter_len: int = 10  # A, adapter positions a layer
    prefix_adapter: bool = True  # their learned part
    graph_adapter: bool = True  # their part from the history's graph embeddings
    graph_rank: int = 0  # width of a learned bimap before the pooling; 0: none, as published
    graph_mean: bool = False  # pooled graph divided by the history's length
    graph_dropout: float = 0.3
    graph_input: bool = True  # graph embedding in the item vectors
    seq_input: bool = True  # sequence embedding in the item vectors
    item_ids: bool = False  # a learned vector an item, added to the item vectors
    dropout: float = 0.0  # on item vectors and on what each block adds to the residual stream
    w_lora: bool = True
    lora_r: int = 16
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("w1", "w2", "w3")
    train_score: bool = False  # train the output head
    tie_score: bool = False  # the head is the item vectors, through a learned matrix
    train_base: bool = False  # train LLaMA itself

    objective: str = "prefix"  # prefix: one pass a history, as published; causal: one pass a user
    label_smoothing: float = 0.0
    compile: bool = False  # torch.compile each block
    recompute: bool = False  # keep only what enters each block, make the rest again for the backward pass
    n_negatives: int = 0  # items drawn each step for a sampled softmax; 0: all items

    def __post_init__(self) -> None:
        problems = []
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 2:
            problems.append(f"dim {self.dim} must be n_heads {self.n_heads} times an even number")
        if self.n_heads % self.kv_heads:
            problems.append(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.kv_heads}")
        if self.w_adapter and not (self.prefix_adapter or self.graph_adapter):
            problems.append("w_adapter needs prefix_adapter or graph_adapter")
        if not (self.graph_input or self.seq_input):
            problems.append("an item vector needs graph_input or seq_input")
        if self.objective not in ("prefix", "causal"):
            problems.append(f"objective {self.objective!r}: prefix or causal")
        if not self.n_layers and (self.w_adapter or self.objective == "prefix"):
            problems.append("n_layers 0 needs the causal objective and no w_adapter")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def ffn_width(self) -> int:
        """Inner width of the feed-forward: two thirds of 4 · dim, scaled, rounded up to multiple_of."""
        if self.ffn_dim is not None:
            return self.ffn_dim
        width = int(8 * self.dim / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of

    @property
    def prefix_len(self) -> int:
        """Adapter positions in front of the tokens: the position of the first token."""
        return self.adapter_len if self.w_adapter else 0


MODEL_SIZES = {  # shapes known by name
    "Llama-2-7b": {},
    "Llama-2-13b": {"dim": 5120, "n_layers": 40, "n_heads": 40},
    # The yardstick for costs (SPEC.md section 6)
    "S": {"dim": 512, "n_layers": 8, "n_heads": 8},
    # Trained from scratch, reads no text
    "tiny": {"dim": 128, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "vocab_size": 2, "max_seq_len": 128},
}


def precompute_freqs_cis(head_dim: int, length: int, theta: float) -> Tensor:
    """Rotations e^{i·p·theta^(−2j/head_dim)} as complex64 (length, head_dim / 2), always on the CPU."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device="cpu"), inverse)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary_emb(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (B, S, H, head_dim) by freqs_cis (B or 1, S, head_dim / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs_cis[:, :, None]).flatten(3).type_as(x)


class AdapterInput(NamedTuple):
    """Inputs scale · (slot + row) of A extra key or value positions, their sum never formed.

    A linear map of them is scale · (W slot + W row): one product a slot and one a row instead of one a pair.
    """

    slot: Tensor | None  # (A, dim), the same in all rows
    row: Tensor | None  # (…, dim), the same in all slots
    scale: Tensor  # (…, A), or (…, 1) without slots

    def project(self, weight: ColumnParallelLinear) -> "AdapterInput":
        """The same through a parallel layer's weight, without any low-rank update (SPEC.md section 3)."""
        slot, row = (x if x is None else ColumnParallelLinear.forward(weight, x) for x in self[:2])
        # Every process reads all scales for its own heads, so their gradients add up over the processes.
        return AdapterInput(slot, row, copy_to_model_parallel_region(self.scale))

    def whole(self) -> Tensor:
        """The sum written out: (…, A, width)."""
        parts = [] if self.slot is None else [self.slot]
        if self.row is not None:
            parts.append(self.row[..., None, :])
        return sum(parts[1:], parts[0]) * self.scale[..., None]


class Attention(nn.Module):
    """Causal self-attention with grouped queries and optional prefix keys and values."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.head_dim, self.prefix_len = args.head_dim, args.prefix_len
        for what, heads in (("n_heads", args.n_heads), ("n_kv_heads", args.kv_heads)):
            if heads % mp_size():
                raise ValueError(f"{what} {heads} cannot be split over {mp_size()} processes")
        self.wq = ColumnParallelLinear(args.dim, args.n_heads * args.head_dim)
        self.wk = ColumnParallelLinear(args.dim, args.kv_heads * args.head_dim)
        self.wv = ColumnParallelLinear(args.dim, args.kv_heads * args.head_dim)
        self.wo = RowParallelLinear(args.n_heads * args.head_dim, args.dim)

    def forward(self, x: Tensor, freqs_cis: Tensor, mask: Tensor | None, prefix, last_only: bool) -> Tensor:
        """Attend.

        Args:
            x: (B, S, dim), normalised.
            freqs_cis: complex (B or 1, S, head_dim / 2).
            mask: bool (B or 1, 1, Sq, A + S), True where a query may look; None: everywhere.
            prefix: None or key and value inputs, each a Prefix of B or no rows.
            last_only: compute the last position's query alone (Sq = 1), else Sq = S.

        Returns: (B, Sq, dim).
        """
        x_q, freqs_q = (x[:, -1:], freqs_cis[:, -1:]) if last_only else (x, freqs_cis)
        q, (k, v) = self.queries(x_q, freqs_q), self.keys_values(x, freqs_cis)
        if prefix is not None:
            extra = self.prefix_keys_values(prefix, len(x))
            k, v = (torch.cat([e.type_as(t), t], 1) for e, t in zip(extra, (k, v), strict=True))
        return self.attend(q, k, v, mask)

    def queries(self, x: Tensor, freqs_cis: Tensor) -> Tensor:
        """(B, S, dim) to (B, S, H, head_dim), rotated."""
        return apply_rotary_emb(self.wq(x).unflatten(-1, (-1, self.head_dim)), freqs_cis)

    def keys_values(self, x: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, dim) to keys, rotated, and values, (B, S, n_kv_heads, head_dim) each."""
        k, v = (w(x).unflatten(-1, (-1, self.head_dim)) for w in (self.wk, self.wv))
        return apply_rotary_emb(k, freqs_cis), v

    def prefix_keys_values(self, prefix: tuple[AdapterInput, AdapterInput], batch: int) -> list[Tensor]:
        """Keys, not rotated, and values of the prefix: (batch, A, n_kv_heads, head_dim) each."""
        parts = [p.project(w).whole() for w, p in zip((self.wk, self.wv), prefix, strict=True)]
        return [p.expand(batch, self.prefix_len, -1).unflatten(-1, (-1, self.head_dim)) for p in parts]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Queries (B, Sq, H, head_dim) over keys and values (B, Sk, n_kv_heads, head_dim) to (B, Sq, dim)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return self.wo(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """w2(silu(w1 x) · w3 x)."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = ColumnParallelLinear(args.dim, args.ffn_width)
        self.w2 = RowParallelLinear(args.ffn_width, args.dim)
        self.w3 = ColumnParallelLinear(args.dim, args.ffn_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward around a residual stream that keeps its own (float32) precision."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        self.ffn_norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        self.dropout = nn.Dropout(args.dropout)

    def forward(self, h: Tensor, freqs_cis: Tensor, mask: Tensor | None, prefix, last_only: bool) -> Tensor:
        out = self.attention(self.attention_norm(h), freqs_cis, mask, prefix, last_only)
        return self.add(h[:, -1:] if last_only else h, out)

    def add(self, h: Tensor, attended: Tensor) -> Tensor:
        """The residual stream after attention and feed-forward."""
        h = h + self.dropout(attended)
        return h + self.dropout(self.feed_forward(self.ffn_norm(h)))


class Transformer(nn.Module):
    """LLaMA-2 without its output head."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        init_model_parallel()
        self.args = args
        self.tok_embeddings = ParallelEmbedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(TransformerBlock(args) for _ in range(args.n_layers))
        self.norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        freqs_cis = precompute_freqs_cis(args.head_dim, args.max_seq_len, args.rope_theta)
        self.register_buffer("freqs_cis", freqs_cis, persistent=False)

    def forward(
        self,
        h: Tensor,
        mask: Tensor | None = None,
        prefix: Iterable[tuple[Tensor, Tensor]] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Run all layers and the final norm.

        Args:
            h: (B, S, dim) float32, token or item vectors.
            mask: bool (B, S), False at padded positions; None: no padding. Padded positions are never looked
                at and not counted in the others' rotary positions, which start at prefix_len.
            prefix: per layer key and value inputs, each a Prefix; needed where args.w_adapter.
            last_only: return the last position alone and skip whatever only others would read.

        Returns: normalised hidden states (B, S, dim), or (B, 1, dim) with last_only.
        """
        length, start = h.shape[1], self.args.prefix_len
        if start + length > self.args.max_seq_len:
            raise ValueError(f"{start} adapter + {length} token positions exceed max_seq_len {self.args.max_seq_len}")
        if mask is None:
            positions = torch.arange(start, start + length, device=h.device)[None]
        else:
            positions = (mask.cumsum(1) - 1).clamp(min=0) + start
        freqs_cis = self.freqs_cis[positions]
        allowed = self._allowed(length, mask, h.device)
        prefixes = [None] * len(self.layers) if prefix is None else prefix
        last_layer = self.layers[-1]
        for layer, layer_prefix in zip(self.layers, prefixes, strict=True):
            only = last_only and layer is last_layer
            if only:  # without padding the last position sees everything, which needs no mask
                allowed = None if mask is None else allowed[:, :, -1:]
            h = self.run(TransformerBlock.forward, layer, h, freqs_cis, allowed, layer_prefix, only)
        return self.norm(h)

    def run(self, function, *inputs):
        """function(*inputs) by args.compile and args.recompute; one compilation serves all layers and lengths."""
        if self.args.compile:
            function = torch.compile(function, dynamic=True)
        if self.args.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _allowed(self, length: int, mask: Tensor | None, device) -> Tensor:
        """bool (B or 1, 1, S, A + S): the prefix, and earlier real positions; itself, so that no row is empty."""
        allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None]
        if mask is not None:
            itself = torch.eye(length, dtype=torch.bool, device=device)
            allowed = allowed & (mask[:, None] | itself)
        return F.pad(allowed, (self.args.prefix_len, 0), value=True)[:, None]
