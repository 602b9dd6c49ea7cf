"""GGUF files as llama.cpp's converter writes them, from a LLaMA of the transformers library and back."""

from pathlib import Path

import numpy as np
import torch

LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def transformers_names(n_layers: int) -> dict[str, str]:
    """Return name in the file -> name in transformers."""
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    layers = {f"blk.{n}.{a}": f"model.layers.{n}.{b}" for n in range(n_layers) for a, b in LAYER.items()}
    return {f"{a}.weight": f"{b}.weight" for a, b in (top | layers).items()}


def row_order(name: str, config) -> list[int] | None:
    """Return the index in transformers of every row in the file; None if the order is the same.

    In each head, the halves of rotated pairs become pairs of neighbours.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return None
    half = config.hidden_size // config.num_attention_heads // 2
    return [2 * half * head + j + second for head in range(heads) for j in range(half) for second in (0, half)]


def metadata(config) -> dict:
    return {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
    }


@torch.no_grad()
def write_gguf(path: Path, model, kinds=("F32",), change=None, architecture="llama", tokenizer=None) -> Path:
    """Write a model to a GGUF file, and give the model the rounded weights that the file holds.

    Args:
        path: the file.
        model: a LLaMA of the transformers library.
        kinds: GGML types of the matrices, in turn; norms are float32.
        change: called with metadata (keys below "llama.") and tensors, {name: (array, type)}, before they are written.
        architecture: the metadata's architecture and prefix.
        tokenizer: fields of a tokenizer by their keys below "tokenizer.ggml.".
    """
    import gguf

    parameters = dict(model.named_parameters())
    fields = metadata(model.config)
    tensors = {}
    names = {a: b for a, b in transformers_names(model.config.num_hidden_layers).items() if b in parameters}
    for number, (name, theirs) in enumerate(names.items()):
        p = parameters[theirs]
        order = row_order(name, model.config)
        kind = gguf.GGMLQuantizationType["F32" if p.ndim == 1 else kinds[number % len(kinds)]]
        stored = gguf.quants.quantize(p.numpy(), kind)  # row by row, so that rows may be moved afterwards
        p.copy_(torch.from_numpy(gguf.quants.dequantize(stored, kind).copy()))
        tensors[name] = (stored if order is None else stored[order], kind)
    if change:
        change(fields, tensors)
    writer = gguf.GGUFWriter(path, architecture)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
    for key, value in (tokenizer or {"tokens": ["<s>", "word", "…"]}).items():
        add.get(type(value), writer.add_array)(f"tokenizer.ggml.{key}", value)
    for key, value in fields.items():
        key = key if key.startswith("split.") else f"{architecture}.{key}"
        add.get(type(value), writer.add_array)(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@torch.no_grad()
def fill_from_gguf(model, path: Path) -> None:
    """Load a GGUF file into a LLaMA of the transformers library, with rows in that library's order."""
    import gguf

    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    parameters = dict(model.named_parameters())
    names = transformers_names(model.config.num_hidden_layers)
    assert {a for a, b in names.items() if b in parameters} == set(tensors)
    for name, tensor in tensors.items():
        order = row_order(name, model.config)
        rows = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        parameters[names[name]][slice(None) if order is None else order] = rows
