"""Encode texts with LLaMA itself: the mean of its last hidden states."""

from pathlib import Path

import numpy as np
import torch

from llama.checkpoint import load_base_weights, open_checkpoint
from llama.model import ModelArgs, Transformer
from llama.tokenizer import open_tokenizer
from preprocess.modalities.encoders import Encoder

MAX_TOKENS = 512  # per text; the rest is cut off


def llama(weights: Path, device: torch.device) -> Encoder:
    """Return an encoder of texts by LLaMA: the mean of the last hidden states of a text's tokens, (N, dim).

    The begin-of-sequence token is read but not averaged: its state is the same for all texts.

    Args:
        weights: folder in Meta's or Hugging Face's layout with its tokenizer, or a GGUF file.
        device: on which it runs, in bfloat16 on CUDA.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    shape = open_checkpoint(weights).shape
    tokenize, n_start = open_tokenizer(weights)
    with torch.device("meta"):
        model = Transformer(ModelArgs(**shape, max_seq_len=MAX_TOKENS))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    load_base_weights(model, weights, dtype, device)
    model = model.to(device).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        ids = [tokenize(text)[:MAX_TOKENS] for text in texts]
        length = torch.tensor([len(row) for row in ids])
        mask = torch.arange(max(int(length.max()), 1)) < length[:, None]  # padding on the right
        tokens = torch.zeros(mask.shape, dtype=torch.int64)
        tokens[mask] = torch.tensor([token for row in ids for token in row])
        largest = int(tokens.max())
        if largest >= shape["vocab_size"]:
            raise ValueError(
                f"{weights}: its tokenizer makes token {largest} of {shape['vocab_size']}; take its own one"
            )
        tokens = tokens.to(device)
        mask = mask.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            hidden = model(model.tok_embeddings(tokens).float(), mask).float()
        mask[:, :n_start] = False
        total = (hidden * mask[..., None]).sum(1)
        return (total / mask.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()

    return encode
