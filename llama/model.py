"""LLaMA with Meta's parameter names: token embeddings, blocks and final norm. Knows nothing of items or graphs.

Every layer takes optional adapter inputs: extra keys and values in front of the tokens, which every position may
attend to.
"""

import math
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
    """Sizes of LLaMA, by the names of Meta's params.json, and how its blocks are run.

    Raises:
        ValueError: sizes that do not go together; names all of them.
    """

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None  # None: as many as n_heads
    vocab_size: int = 32000
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of it
    ffn_dim_multiplier: float | None = None
    ffn_dim: int | None = None  # feed-forward width where a checkpoint states it; None: Meta's rule
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    # Llama-3.1 and later stretch the slow rotations; the numbers have Hugging Face's names
    rope_factor: float = 1.0  # 1: no stretching
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_context: int = 8192  # original_max_position_embeddings
    max_seq_len: int = 2048
    # Not Meta's, but every block is built or run by them
    dropout: float = 0.0  # on what each block adds to the residual stream
    compile: bool = False  # torch.compile each block
    recompute: bool = False  # activation checkpointing: keep each block's input, recompute the rest in the backward

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Return one phrase per pair of settings that contradict each other."""
        problems = []
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 2:
            problems.append(f"dim {self.dim} must be n_heads {self.n_heads} times an even number")
        if self.n_heads % self.kv_heads:
            problems.append(f"n_heads {self.n_heads} must be a multiple of n_kv_heads {self.kv_heads}")
        return problems

    @property
    def kv_heads(self) -> int:
        """Return the number of key/value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head."""
        return self.dim // self.n_heads

    @property
    def ffn_width(self) -> int:
        """Return the feed-forward's inner width: two thirds of 4 · dim, scaled, rounded up to multiple_of."""
        if self.ffn_dim is not None:
            return self.ffn_dim
        width = int(8 * self.dim / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of

    @property
    def n_adapter_positions(self) -> int:
        """Return the number of adapter positions in front of the tokens, which is the first token's position."""
        return 0


MODEL_SIZES = {  # shapes known by name
    "Llama-2-7b": {},
    "Llama-2-13b": {"dim": 5120, "n_layers": 40, "n_heads": 40},
    # The yardstick for cost (docs/method.md, section 6)
    "S": {"dim": 512, "n_layers": 8, "n_heads": 8},
    # Trained from scratch; reads no text
    "tiny": {"dim": 128, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "vocab_size": 2, "max_seq_len": 128},
}


def rotation_frequencies(head_dim: int, theta: float) -> Tensor:
    """Return theta^(−2j/head_dim) radians per position: float32 (head_dim / 2,), always on the CPU."""
    return theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)


def llama3_divisors(frequencies: Tensor, factor: float, low: float, high: float, context: int) -> Tensor:
    """Return by how much Llama-3.1 and later divide each rotation frequency, of the same shape.

    This is Hugging Face's `rope_type` "llama3" and Meta's `use_scaled_rope`.

    Args:
        frequencies: radians per position.
        factor: divisor of rotations that turn less than `low` times in the original context.
        low: turns up to which the whole factor applies.
        high: turns from which a rotation stays as it is; in between, the frequency is interpolated.
        context: positions of the original context.
    """
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / (kept + (1 - kept) / factor)


def precompute_freqs_cis(args: ModelArgs) -> Tensor:
    """Return rotations e^{i·p·f} by position p and frequency f, complex64 (max_seq_len, head_dim / 2), on the CPU."""
    frequencies = rotation_frequencies(args.head_dim, args.rope_theta)
    if args.rope_factor != 1:
        scaling = args.rope_factor, args.rope_low_freq_factor, args.rope_high_freq_factor, args.rope_original_context
        frequencies = frequencies / llama3_divisors(frequencies, *scaling)
    angles = torch.outer(torch.arange(args.max_seq_len, dtype=torch.float32, device="cpu"), frequencies)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary_emb(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (B, S, H, head_dim) by freqs_cis (B or 1, S, head_dim / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs_cis[:, :, None]).flatten(3).type_as(x)


class AdapterInput(NamedTuple):
    """Inputs scale · (slot + history) of A extra key or value positions, kept as three tensors.

    A linear map W turns them into scale · (W slot + W history): a product per slot and per history, not per pair.
    """

    slot: Tensor | None  # (A, dim), the same for all histories
    history: Tensor | None  # (…, dim), the same for all slots
    scale: Tensor  # (…, A), or (…, 1) without slots

    def project(self, weight: ColumnParallelLinear) -> "AdapterInput":
        """Apply a parallel layer's weight, without any low-rank update (docs/method.md, section 3)."""
        slot, history = (x if x is None else ColumnParallelLinear.forward(weight, x) for x in self[:2])
        # Every process reads all scales for its share of the heads, so their gradients add up over the processes.
        return AdapterInput(slot, history, copy_to_model_parallel_region(self.scale))

    def form_sum(self) -> Tensor:
        """Return scale · (slot + history): (…, A, width)."""
        parts = [] if self.slot is None else [self.slot]
        if self.history is not None:
            parts.append(self.history[..., None, :])
        return sum(parts[1:], parts[0]) * self.scale[..., None]


AdapterKeyValue = tuple[AdapterInput, AdapterInput]  # one layer's inputs of keys and of values


class Attention(nn.Module):
    """Causal self-attention with grouped queries and optional adapter keys and values."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.head_dim = args.head_dim
        self.n_adapter_positions = args.n_adapter_positions
        for name, heads in (("n_heads", args.n_heads), ("n_kv_heads", args.kv_heads)):
            if heads % mp_size():
                raise ValueError(f"{name} {heads} cannot be split over {mp_size()} processes")
        self.wq = ColumnParallelLinear(args.dim, args.n_heads * args.head_dim)
        self.wk = ColumnParallelLinear(args.dim, args.kv_heads * args.head_dim)
        self.wv = ColumnParallelLinear(args.dim, args.kv_heads * args.head_dim)
        self.wo = RowParallelLinear(args.n_heads * args.head_dim, args.dim)

    def forward(
        self, x: Tensor, freqs_cis: Tensor, mask: Tensor | None, adapter: AdapterKeyValue | None, last_only: bool
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, S, dim), normalised.
            freqs_cis: complex (B or 1, S, head_dim / 2).
            mask: bool (B or 1, 1, Sq, A + S), True where a query may attend; None: everywhere.
            adapter: key and value inputs, histories (B, dim) or None; None without adapter.
            last_only: compute the last position's query alone (Sq = 1), else Sq = S.

        Returns:
            (B, Sq, dim).
        """
        x_q, freqs_q = (x[:, -1:], freqs_cis[:, -1:]) if last_only else (x, freqs_cis)
        q = self.queries(x_q, freqs_q)
        k, v = self.keys_values(x, freqs_cis)
        if adapter is not None:
            k, v = self.prepend_adapter(adapter, k, v)
        return self.attend(q, k, v, mask)

    def queries(self, x: Tensor, freqs_cis: Tensor) -> Tensor:
        """Map (B, S, dim) to rotated queries (B, S, H, head_dim)."""
        return apply_rotary_emb(self.wq(x).unflatten(-1, (-1, self.head_dim)), freqs_cis)

    def keys_values(self, x: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, S, dim) to rotated keys and to values, (B, S, n_kv_heads, head_dim) each."""
        k, v = (w(x).unflatten(-1, (-1, self.head_dim)) for w in (self.wk, self.wv))
        return apply_rotary_emb(k, freqs_cis), v

    def prepend_adapter(self, adapter: AdapterKeyValue, k: Tensor, v: Tensor) -> list[Tensor]:
        """Put the adapter's keys, which are not rotated, and values before others: (B, A + S, n_kv_heads, head_dim)."""
        extended = []
        for weight, adapter_input, tokens in zip((self.wk, self.wv), adapter, (k, v), strict=True):
            extra = adapter_input.project(weight).form_sum()
            extra = extra.expand(len(tokens), self.n_adapter_positions, -1).unflatten(-1, (-1, self.head_dim))
            extended.append(torch.cat([extra.type_as(tokens), tokens], 1))
        return extended

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Map queries (B, Sq, H, head_dim), keys and values (B, Sk, n_kv_heads, head_dim) to outputs (B, Sq, dim)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return self.wo(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """The gated feed-forward w2(silu(w1 x) · w3 x)."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = ColumnParallelLinear(args.dim, args.ffn_width)
        self.w2 = RowParallelLinear(args.ffn_width, args.dim)
        self.w3 = ColumnParallelLinear(args.dim, args.ffn_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, dim) to (…, dim)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward around a residual stream that stays in float32."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        self.ffn_norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        self.dropout = nn.Dropout(args.dropout)

    def forward(
        self, h: Tensor, freqs_cis: Tensor, mask: Tensor | None, adapter: AdapterKeyValue | None, last_only: bool
    ) -> Tensor:
        """Return the next residual stream of h (B, S, dim); the other arguments as in `Attention.forward`."""
        attended = self.attention(self.attention_norm(h), freqs_cis, mask, adapter, last_only)
        return self.residual_and_ffn(h[:, -1:] if last_only else h, attended)

    def residual_and_ffn(self, h: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output to the residual stream, then the feed-forward's."""
        h = h + self.dropout(attended)
        return h + self.dropout(self.feed_forward(self.ffn_norm(h)))


class Transformer(nn.Module):
    """LLaMA without its output head."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        init_model_parallel()
        self.args = args
        self.tok_embeddings = ParallelEmbedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(TransformerBlock(args) for _ in range(args.n_layers))
        self.norm = nn.RMSNorm(args.dim, eps=args.norm_eps)
        self.register_buffer("freqs_cis", precompute_freqs_cis(args), persistent=False)

    def forward(
        self,
        h: Tensor,
        mask: Tensor | None = None,
        adapter: Iterable[AdapterKeyValue] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Run all layers and the final norm.

        Args:
            h: (B, S, dim) float32, one vector per token.
            mask: bool (B, S), False at padding; None: no padding. Nothing attends to padding, and it is not counted
                in the rotary positions, which start at args.n_adapter_positions.
            adapter: each layer's key and value inputs; needed where args.n_adapter_positions is not 0.
            last_only: return the last position alone and skip whatever only the others would read.

        Returns:
            Normalised hidden states (B, S, dim), or (B, 1, dim) with last_only.

        Raises:
            ValueError: more positions than max_seq_len.
        """
        length = h.shape[1]
        start = self.args.n_adapter_positions  # of the tokens
        if start + length > self.args.max_seq_len:
            raise ValueError(f"{start} adapter + {length} token positions exceed max_seq_len {self.args.max_seq_len}")
        if mask is None:
            positions = torch.arange(start, start + length, device=h.device)[None]
        else:
            positions = (mask.cumsum(1) - 1).clamp(min=0) + start
        freqs_cis = self.freqs_cis[positions]
        allowed = self._attention_mask(length, mask, h.device)
        inputs_per_layer = [None] * len(self.layers) if adapter is None else adapter
        for layer, adapter_inputs in zip(self.layers, inputs_per_layer, strict=True):
            skip_others = last_only and layer is self.layers[-1]
            if skip_others:  # without padding the last position attends to everything, which needs no mask
                allowed = None if mask is None else allowed[:, :, -1:]
            h = self.apply_block(TransformerBlock.forward, layer, h, freqs_cis, allowed, adapter_inputs, skip_others)
        return self.norm(h)

    def apply_block(self, function, *inputs):
        """Call function(*inputs) as args.compile and args.recompute ask; all layers and lengths share a compilation."""
        if self.args.compile:
            function = torch.compile(function, dynamic=True)
        if self.args.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _attention_mask(self, length: int, mask: Tensor | None, device: torch.device) -> Tensor:
        """Return where each query may attend: bool (B or 1, 1, S, A + S).

        That is the adapter, earlier real positions and, so that no row is empty, the query's own position.
        """
        allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None]
        if mask is not None:
            itself = torch.eye(length, dtype=torch.bool, device=device)
            allowed = allowed & (mask[:, None] | itself)
        return F.pad(allowed, (self.args.n_adapter_positions, 0), value=True)[:, None]
