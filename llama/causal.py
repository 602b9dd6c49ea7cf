"""One pass over whole histories: every item position with adapter keys and values of its own.

The prompt stands in front of all histories and sees nothing but the learned prefix, so it is computed once for a
whole batch. Histories are padded on the right, where no earlier position looks.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from llama.model import AdapterInput, Attention, Transformer, TransformerBlock

KeyValue = tuple[AdapterInput, AdapterInput]  # of keys and of values


def causal_pass(
    transformer: Transformer,
    prompt: Tensor,
    items: Tensor,
    adapter: Iterable[KeyValue] | None = None,
    learned: Iterable[KeyValue] | None = None,
    at: Tensor | None = None,
) -> Tensor:
    """Run all layers and the final norm over [prompt][items].

    Args:
        prompt: (1, P, D) float32, the same for every history, P may be 0; items: (B, T, D) float32.
        adapter: each layer's key and value inputs, of (B, T) rows or of none; None without adapter.
        learned: the same without rows, for the prompt; None where there is no learned prefix.
        at: int64 (B, K), the positions that are wanted; None: all T.

    Returns: normalised hidden states (B, K or T, D).

    Raises:
        ValueError: more positions than max_seq_len.
    """
    args, (length, n_prompt) = transformer.args, (items.shape[1], prompt.shape[1])
    end = args.prefix_len + n_prompt + length
    if end > args.max_seq_len:
        raise ValueError(f"{end} adapter, prompt and item positions exceed max_seq_len {args.max_seq_len}")
    freqs = transformer.freqs_cis[None, args.prefix_len : end].split([n_prompt, length], 1)
    h, nothing = items, [None] * args.n_layers
    for layer, own, shared in zip(transformer.layers, adapter or nothing, learned or nothing, strict=True):
        last = layer is transformer.layers[-1]
        prompt, h = transformer.run(_layer_pass, layer, prompt, h, freqs, own, shared, last, at if last else None)
    return transformer.norm(h if args.n_layers or at is None else gather_positions(h, at))


def _layer_pass(
    layer: TransformerBlock,
    prompt: Tensor,
    h: Tensor,
    freqs: tuple[Tensor, Tensor],
    own: KeyValue | None,
    learned: KeyValue | None,
    last: bool,
    at: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One layer over prompt and items, whose rotations are `freqs`; of the items the positions `at` or all."""
    attention = layer.attention
    prompt, before = _prompt_layer(layer, prompt, freqs[0], learned, last)
    x, place = layer.attention_norm(h), torch.arange(h.shape[1], device=h.device)[None]
    keys_values = attention.keys_values(x, freqs[1])
    if at is not None:  # nobody reads the other positions
        h, x, place, own = (
            gather_positions(h, at),
            gather_positions(x, at),
            at,
            own and tuple(_gather_history(p, at) for p in own),
        )
    q = attention.queries(x, freqs[1][0][place])
    if own is not None:
        own = tuple(p.project(w) for w, p in zip((attention.wk, attention.wv), own, strict=True))
    return prompt, layer.add(h, _attend(attention, q, keys_values, before, own, place))


def gather_positions(x: Tensor, at: Tensor) -> Tensor:
    """Positions `at`, int64 (B, K), of x (B, T, …): (B, K, …)."""
    return x[torch.arange(len(at), device=at.device)[:, None], at]


def left_to_right_padding(items: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Left-padded items (B, T) and their mask to right-padded items, and each row's length, int64 (B,)."""
    batch, length = items.shape
    if mask is None:
        return items, torch.full((batch,), length, device=items.device)
    lengths = mask.sum(1)
    from_left = torch.arange(length, device=items.device) + (length - lengths)[:, None]
    return items.gather(1, from_left.clamp(max=length - 1)), lengths


def _gather_history(prefix: AdapterInput, at: Tensor) -> AdapterInput:
    if prefix.row is None:
        return prefix
    return AdapterInput(prefix.slot, gather_positions(prefix.row, at), gather_positions(prefix.scale, at))


def _prompt_layer(
    layer: TransformerBlock, h: Tensor, freqs: Tensor, learned: KeyValue | None, last: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The prompt's next residual stream, and the keys and values that the items see of it: (P, Hkv, head_dim)."""
    attention, x = layer.attention, layer.attention_norm(h)
    k, v = keys_values = attention.keys_values(x, freqs)
    if not last and h.shape[1]:
        allowed = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()
        if learned is not None:
            extra = attention.prefix_keys_values(learned, 1)
            k, v = (torch.cat([e.type_as(t), t], 1) for e, t in zip(extra, keys_values, strict=True))
            allowed = F.pad(allowed, (extra[0].shape[1], 0), value=True)
        h = layer.add(h, attention.attend(attention.queries(x, freqs), k, v, allowed))
    return h, tuple(t[0] for t in keys_values)


def _attend(
    attention: Attention,
    q: Tensor,
    keys_values: tuple[Tensor, Tensor],
    before: tuple[Tensor, Tensor],
    own: KeyValue | None,
    place: Tensor,
) -> Tensor:
    """Attention of each query over its own adapter positions, the prompt, and the items up to its place.

    No adapter key or value is ever formed: q·(scale · (slot + row)) = scale · (q·slot + q·row).

    Args:
        q: (B, S, H, d); keys_values: of the items (B, T, Hkv, d); before: of the prompt (P, Hkv, d).
        own: projected adapter inputs of (B, S) rows or none; place: int64 (B or 1, S).

    Returns: (B, S, dim).
    """
    (k, v), (k_before, v_before), n_slots = keys_values, before, attention.prefix_len if own else 0
    q = q.unflatten(2, (k.shape[2], -1)) * attention.head_dim**-0.5  # (B, S, Hkv, G, d)
    seen = torch.arange(k.shape[1], device=q.device) <= place[..., None]  # (B or 1, S, T)
    scores = [
        torch.einsum("bskgd,pkd->bkgsp", q, k_before),
        torch.einsum("bskgd,btkd->bkgst", q, k).masked_fill(~seen[:, None, None], -torch.inf),
    ]
    if own is not None:
        scores.insert(0, _adapter_logits(q, own[0]).expand(*scores[0].shape[:-1], n_slots))
    weights = torch.cat(scores, -1).float().softmax(-1)
    w_own, w_before, w_items = weights.split([n_slots, len(k_before), k.shape[1]], -1)
    out = torch.einsum("bkgst,btkd->bskgd", w_items.type_as(v), v)
    out = out + torch.einsum("bkgsp,pkd->bskgd", w_before.type_as(v), v_before)
    if own is not None:
        out = out + _adapter_output(w_own, own[1])
    return attention.wo(out.type_as(v).flatten(2))


def _adapter_logits(q: Tensor, keys: AdapterInput) -> Tensor:
    """q (B, S, Hkv, G, d) times keys (B, S, A, Hkv · d): (B, Hkv, G, S, A), A = 1 without slots."""
    score = 0.0
    if keys.slot is not None:
        score = torch.einsum("bskgd,akd->bkgsa", q, keys.slot.unflatten(-1, (q.shape[2], -1)))
    if keys.row is not None:
        row = keys.row.unflatten(-1, (q.shape[2], 1, -1))
        score = score + (q * row).sum(-1).permute(0, 2, 3, 1)[..., None]
    return score * _broadcast_heads(keys.scale)


def _adapter_output(weights: Tensor, values: AdapterInput) -> Tensor:
    """Weights (B, Hkv, G, S, A) times values (B, S, A, Hkv · d): (B, S, Hkv, G, d)."""
    out, groups, weights = 0.0, weights.shape[1], weights * _broadcast_heads(values.scale)
    if values.slot is not None:
        slot = values.slot.unflatten(-1, (groups, -1))
        out = torch.einsum("bkgsa,akd->bskgd", weights.type_as(slot), slot)
    if values.row is not None:
        row = values.row.unflatten(-1, (groups, 1, -1))
        out = out + weights.sum(-1).permute(0, 3, 1, 2)[..., None] * row
    return out


def _broadcast_heads(scale: Tensor) -> Tensor:
    return scale if scale.ndim == 1 else scale[:, None, None]
