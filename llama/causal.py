"""One pass over full histories: every item position has adapter keys and values of its own.

Histories are padded on the right, where no earlier position attends. The prompt stands in front of all histories and
attends to nothing but itself and the learned prefix, so it is computed once for the whole batch.

Item t attends to   [A adapter positions of item t] [P prompt positions] [items 0 … t]

Adapter position a of item t has the input s(t,a) · (slot(a) + history(t)): slot(a) comes from the learned prefix,
history(t) from the graph of items 0 … t, and s(t,a) is the scale of RMSNorm. Materialising them would take B·T·A keys
and as many values per layer. It is not needed, because both products of attention are linear in them (W is the key or
value weight):

    logit    q · W s(t,a) (slot(a) + history(t))  =  s(t,a) · (q · W slot(a)  +  q · W history(t))
    output   Σ_a w(a) W s(t,a) (slot(a) + history(t))  =  Σ_a u(a) W slot(a)  +  (Σ_a u(a)) W history(t)
             with u(a) = w(a) s(t,a)

That takes A products for the slots, which all items share, and one product per item for its history.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from llama.model import AdapterInput, AdapterKeyValue, Attention, Transformer, TransformerBlock


def to_right_padding(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Move each row's real positions to its beginning; a row that is padded on the right already stays as it is.

    Args:
        mask: bool (B, T), False at padding, which is at one end of a row.
        *tensors: (B, T) each, padded like it.

    Returns:
        The mask and the tensors. Nothing is read back from the device.
    """
    length = mask.shape[1]
    n_padding = length - mask.sum(1, keepdim=True)
    padded_on_the_left = ~mask[:, :1]
    index = (torch.arange(length, device=mask.device) + n_padding * padded_on_the_left) % length
    return [x.gather(1, index) for x in (mask, *tensors)]


def causal_pass(
    transformer: Transformer,
    prompt: Tensor,
    items: Tensor,
    adapter: Iterable[AdapterKeyValue] | None = None,
    prompt_adapter: Iterable[AdapterKeyValue] | None = None,
    query_positions: Tensor | None = None,
) -> Tensor:
    """Run all layers and the final norm over [prompt][items].

    Args:
        transformer: LLaMA.
        prompt: (1, P, D) float32, the same for every history; P may be 0.
        items: (B, T, D) float32.
        adapter: each layer's key and value inputs, histories (B, T, D) or None; None without adapter.
        prompt_adapter: each layer's inputs for the prompt, without histories; None where there is no learned prefix.
        query_positions: int64 (B, Q), the item positions that are wanted; None: all T.

    Returns:
        Normalised hidden states (B, Q or T, D).

    Raises:
        ValueError: more positions than max_seq_len.
    """
    args = transformer.args
    n_prompt = prompt.shape[1]
    length = items.shape[1]
    end = args.n_adapter_positions + n_prompt + length
    if end > args.max_seq_len:
        raise ValueError(f"{end} adapter, prompt and item positions exceed max_seq_len {args.max_seq_len}")
    freqs_cis = transformer.freqs_cis[None, args.n_adapter_positions : end].split([n_prompt, length], 1)
    no_adapter = [None] * args.n_layers
    inputs = zip(transformer.layers, adapter or no_adapter, prompt_adapter or no_adapter, strict=True)
    h = items
    for layer, adapter_inputs, prompt_inputs in inputs:
        is_last_layer = layer is transformer.layers[-1]  # after it only the wanted positions are read
        wanted = query_positions if is_last_layer else None
        prompt, h = transformer.apply_block(
            _layer_pass, layer, prompt, h, freqs_cis, adapter_inputs, prompt_inputs, is_last_layer, wanted
        )
    if not args.n_layers and query_positions is not None:
        h = gather_positions(h, query_positions)
    return transformer.norm(h)


def _layer_pass(
    layer: TransformerBlock,
    prompt: Tensor,
    h: Tensor,
    freqs_cis: tuple[Tensor, Tensor],
    adapter_inputs: AdapterKeyValue | None,
    prompt_inputs: AdapterKeyValue | None,
    is_last_layer: bool,
    query_positions: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the next residual streams of prompt and items.

    `freqs_cis` are the rotations of both, `adapter_inputs` and `prompt_inputs` one layer's of `causal_pass`.
    """
    attention = layer.attention
    prompt_freqs, item_freqs = freqs_cis  # (1, P, head_dim / 2), (1, T, head_dim / 2)
    prompt, prompt_kv = _prompt_layer(layer, prompt, prompt_freqs, prompt_inputs, is_last_layer)
    x = layer.attention_norm(h)
    item_kv = attention.keys_values(x, item_freqs)
    query_inputs = adapter_inputs
    if query_positions is None:
        query_positions = torch.arange(h.shape[1], device=h.device)[None]
    else:
        h = gather_positions(h, query_positions)
        x = gather_positions(x, query_positions)
        if adapter_inputs is not None:
            query_inputs = tuple(_gather_histories(side, query_positions) for side in adapter_inputs)
    q = attention.queries(x, item_freqs[0][query_positions])
    adapter_kv = None
    if query_inputs is not None:
        keys, values = query_inputs
        adapter_kv = keys.project(attention.wk), values.project(attention.wv)
    return prompt, layer.residual_and_ffn(h, _attend(attention, q, item_kv, prompt_kv, adapter_kv, query_positions))


def gather_positions(x: Tensor, positions: Tensor) -> Tensor:
    """Return x (B, T, …) at positions int64 (B, Q): (B, Q, …)."""
    return x[torch.arange(len(positions), device=positions.device)[:, None], positions]


def _gather_histories(adapter: AdapterInput, positions: Tensor) -> AdapterInput:
    if adapter.history is None:
        return adapter
    return AdapterInput(
        adapter.slot, gather_positions(adapter.history, positions), gather_positions(adapter.scale, positions)
    )


def _prompt_layer(
    layer: TransformerBlock, h: Tensor, freqs_cis: Tensor, adapter: AdapterKeyValue | None, is_last_layer: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the prompt's next residual stream, and its keys and values for the items: (P, Hkv, head_dim) each."""
    attention = layer.attention
    x = layer.attention_norm(h)
    k, v = attention.keys_values(x, freqs_cis)
    prompt_kv = k[0], v[0]
    n_prompt = h.shape[1]
    if not is_last_layer and n_prompt:
        allowed = torch.ones(n_prompt, n_prompt, dtype=torch.bool, device=h.device).tril()
        if adapter is not None:
            k, v = attention.prepend_adapter(adapter, k, v)
            everywhere = allowed.new_ones(n_prompt, k.shape[1] - n_prompt)
            allowed = torch.cat([everywhere, allowed], 1)
        h = layer.residual_and_ffn(h, attention.attend(attention.queries(x, freqs_cis), k, v, allowed))
    return h, prompt_kv


def _attend(
    attention: Attention,
    q: Tensor,
    item_kv: tuple[Tensor, Tensor],
    prompt_kv: tuple[Tensor, Tensor],
    adapter_kv: AdapterKeyValue | None,
    query_positions: Tensor,
) -> Tensor:
    """Attend from each query to its own adapter positions, the prompt, and the items up to its position.

    Args:
        attention: the layer's.
        q: (B, S, H, head_dim).
        item_kv: keys and values of the items, (B, T, Hkv, head_dim) each.
        prompt_kv: keys and values of the prompt, (P, Hkv, head_dim) each.
        adapter_kv: projected adapter inputs, histories (B, S, width) or None.
        query_positions: int64 (B or 1, S).

    Returns:
        (B, S, dim).
    """
    k, v = item_kv
    prompt_k, prompt_v = prompt_kv
    q = q.unflatten(2, (k.shape[2], -1)) * attention.head_dim**-0.5  # (B, S, Hkv, G, d): G queries share a key
    is_later = torch.arange(k.shape[1], device=q.device) > query_positions[..., None]  # (B or 1, S, T)
    prompt_logits = torch.einsum("bskgd,pkd->bkgsp", q, prompt_k)
    item_logits = torch.einsum("bskgd,btkd->bkgst", q, k).masked_fill(is_later[:, None, None], -torch.inf)
    logits = [prompt_logits, item_logits]
    n_slots = 0
    if adapter_kv is not None:
        n_slots = attention.n_adapter_positions
        logits.insert(0, _adapter_logits(q, adapter_kv[0]).expand(*prompt_logits.shape[:-1], n_slots))
    # One softmax over all three kinds of positions
    weights = torch.cat(logits, -1).float().softmax(-1)
    adapter_weights, prompt_weights, item_weights = weights.split([n_slots, len(prompt_k), k.shape[1]], -1)
    out = torch.einsum("bkgst,btkd->bskgd", item_weights.type_as(v), v)
    out = out + torch.einsum("bkgsp,pkd->bskgd", prompt_weights.type_as(v), prompt_v)
    if adapter_kv is not None:
        out = out + _adapter_output(adapter_weights, adapter_kv[1])
    return attention.wo(out.type_as(v).flatten(2))


def _adapter_logits(q: Tensor, keys: AdapterInput) -> Tensor:
    """Multiply q (B, S, Hkv, G, d) with keys (B, S, A, Hkv · d): (B, Hkv, G, S, A), A = 1 without slots."""
    logits = 0.0
    if keys.slot is not None:
        logits = torch.einsum("bskgd,akd->bkgsa", q, keys.slot.unflatten(-1, (q.shape[2], -1)))
    if keys.history is not None:
        history = keys.history.unflatten(-1, (q.shape[2], 1, -1))
        logits = logits + (q * history).sum(-1).permute(0, 2, 3, 1)[..., None]
    return logits * _broadcast_heads(keys.scale)


def _adapter_output(weights: Tensor, values: AdapterInput) -> Tensor:
    """Multiply weights (B, Hkv, G, S, A) with values (B, S, A, Hkv · d): (B, S, Hkv, G, d)."""
    n_kv_heads = weights.shape[1]
    weights = weights * _broadcast_heads(values.scale)
    out = 0.0
    if values.slot is not None:
        slot = values.slot.unflatten(-1, (n_kv_heads, -1))
        out = torch.einsum("bkgsa,akd->bskgd", weights.type_as(slot), slot)
    if values.history is not None:
        history = values.history.unflatten(-1, (n_kv_heads, 1, -1))
        out = out + weights.sum(-1).permute(0, 3, 1, 2)[..., None] * history
    return out


def _broadcast_heads(scale: Tensor) -> Tensor:
    """Give scales (A,) or (B, S, A) the shape of weights (B, Hkv, G, S, A)."""
    return scale if scale.ndim == 1 else scale[:, None, None]
