"""A small random LLaMA of the transformers library, its files in every layout, and its comparison with ours."""

from pathlib import Path

import pytest
import torch

from llama.checkpoint import load_base_weights, open_checkpoint
from llama.model import ModelArgs, Transformer
from tests.support.small_gguf import write_gguf
from tests.support.small_model import SHAPE, small_hellm, write_meta

LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "multiple_of": 16, "norm_eps": 1e-5}
IDS = torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9) >= torch.tensor([[0], [4]])  # the second row is padded on the left


def reference(n_kv_heads=8, tied=False, theta=10000.0, vocab_size=90):
    """Return a random LLaMA of the transformers library in which every weight changes the output."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=n_kv_heads, rms_norm_eps=1e-5, tie_word_embeddings=tied, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
    return model


def meta_state(model):
    """Return the reference's weights as Meta's files have them: its names, its order of query and key rows."""
    theirs = model.state_dict()
    config = model.config
    state = {
        "tok_embeddings.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "output.weight": theirs["lm_head.weight"],
        "rope.freqs": torch.ones(2),
    }
    half = config.hidden_size // config.num_attention_heads // 2
    for layer in range(config.num_hidden_layers):
        for ours, name in LAYER.items():
            rows = theirs[f"model.layers.{layer}.{name}.weight"]
            if ours in ("attention.wq", "attention.wk"):
                heads = range(len(rows) // (2 * half))
                order = [2 * half * head + j + second for head in heads for j in range(half) for second in (0, half)]
                rows = rows[order]
            state[f"layers.{layer}.{ours}.weight"] = rows
    return state


def write_every_layout(root: Path, n_shards: int) -> None:
    """Write `meta`, of some shards, `hf`, `sharded` and `small.gguf` below a folder."""
    state = {name.removeprefix("llama."): p.detach() for name, p in small_hellm(w_lora=False).named_parameters()}
    base = {name: p for name, p in state.items() if name.split(".")[0] in ("tok_embeddings", "layers", "norm")}
    write_meta(root / "meta", base, SHAPE, n_shards)
    model = reference(n_kv_heads=4)
    model.save_pretrained(root / "hf")
    model.save_pretrained(root / "sharded", max_shard_size="20KB")
    write_gguf(root / "small.gguf", model)


def load(path, dtype=torch.float32, max_seq_len=16):
    """Load all base weights of a folder or file into a new Transformer."""
    args = ModelArgs(**open_checkpoint(path).shape, max_seq_len=max_seq_len)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, path, dtype)
    return transformer.eval()


@torch.no_grad()
def assert_same_hidden(transformer, model):
    """Check that our Transformer computes the reference's hidden states, with and without padding."""
    ours = transformer(transformer.tok_embeddings(IDS))
    torch.testing.assert_close(ours, model.model(IDS).last_hidden_state, rtol=0, atol=1e-5)
    ours = transformer(transformer.tok_embeddings(IDS), MASK)
    positions = (MASK.cumsum(1) - 1).clamp(min=0)
    theirs = model.model(IDS, attention_mask=MASK.long(), position_ids=positions).last_hidden_state
    torch.testing.assert_close(ours[MASK], theirs[MASK], rtol=0, atol=1e-5)
