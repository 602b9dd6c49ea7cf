"""A small random LLaMA of the transformers library, and whether ours, read from its files, computes the same."""

import pytest
import torch

from llama.model import ModelArgs, Transformer
from llama.checkpoint import load_base_weights, open_checkpoint

IDS = torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9) >= torch.tensor([[0], [4]])  # the second row is padded on the left


def reference(n_kv_heads=8, tied=False, theta=10000.0):
    """A random LLaMA of the transformers library whose every weight matters."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=90, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=n_kv_heads, rms_norm_eps=1e-5, tie_word_embeddings=tied, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
    return model


def load(folder, dtype=torch.float32, max_seq_len=16):
    args = ModelArgs(**open_checkpoint(folder).shape, max_seq_len=max_seq_len)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, folder, dtype)
    return transformer.eval()


@torch.no_grad()
def same_hidden(transformer, model):
    ours = transformer(transformer.tok_embeddings(IDS))
    torch.testing.assert_close(ours, model.model(IDS).last_hidden_state, rtol=0, atol=1e-5)
    ours = transformer(transformer.tok_embeddings(IDS), MASK)
    positions = (MASK.cumsum(1) - 1).clamp(min=0)
    theirs = model.model(IDS, attention_mask=MASK.long(), position_ids=positions).last_hidden_state
    torch.testing.assert_close(ours[MASK], theirs[MASK], rtol=0, atol=1e-5)
