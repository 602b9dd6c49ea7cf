"""A HeLLM of a few thousand parameters, and its base as a folder in Meta's layout."""

import io
import json
from pathlib import Path

import torch
from sentencepiece import SentencePieceTrainer

from llama.HeLLM import HeLLM, HeLLMArgs

N_ITEMS, GRAPH_DIM, SEQ_DIM, FEATURE_DIM = 30, 4, 6, 5
SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 20, "multiple_of": 16, "max_seq_len": 32}
NEW_PARTS = {"adapter_len": 3, "lora_r": 2, "lora_dropout": 0.0, "graph_dropout": 0.0}
SPLIT = {"tok_embeddings": 1, "output": 0, "wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}  # Meta's


def tables(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return graph and sequence embeddings of the items, on the CPU whatever the current device."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (N_ITEMS, GRAPH_DIM), (N_ITEMS + 1, SEQ_DIM)
    return tuple(torch.randn(size, generator=generator, device="cpu") for size in sizes)


def small_args(**settings) -> HeLLMArgs:
    return HeLLMArgs(**{**SHAPE, **NEW_PARTS, **settings})


def small_hellm(seed: int = 1, instruct=(1, 5, 7), response=(1, 9), **settings) -> HeLLM:
    """Make a model from a seed; its low-rank updates are zero until `wake` is called."""
    torch.manual_seed(seed)
    prompt = (torch.tensor(ids, dtype=torch.int64, device="cpu") for ids in (instruct, response))
    args = small_args(**settings)
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(N_ITEMS, FEATURE_DIM, generator=generator, device="cpu") if args.feature_input else None
    return HeLLM(args, *tables(), *prompt, feature_embedding=features)


@torch.no_grad()
def wake(model: HeLLM, seed: int = 2) -> HeLLM:
    """Make every low-rank update and matrix of the base large enough to matter in the scores."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name.endswith("lora.up") or (name.startswith("llama.") and p.ndim == 2 and ".lora." not in name):
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def histories(batch: int = 3, length: int = 5, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, N_ITEMS, (batch, length), generator=torch.Generator().manual_seed(seed))


def shards_of(state: dict[str, torch.Tensor], n_shards: int) -> list[dict[str, torch.Tensor]]:
    """Split tensors by Meta's names as Meta does; norms and rope.freqs are in every shard."""
    shards = [{} for _ in range(n_shards)]
    for name, tensor in state.items():
        dim = SPLIT.get(name.split(".")[-2])
        parts = [tensor] * n_shards if dim is None else tensor.chunk(n_shards, dim)
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.clone()
    return shards


def write_meta(folder: Path, state: dict[str, torch.Tensor], params: dict, n_shards: int = 1) -> Path:
    """Write params.json, with the vocabulary size -1 as Meta does, and consolidated.NN.pth."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({**params, "vocab_size": -1}))
    for number, shard in enumerate(shards_of(state, n_shards)):
        torch.save(shard, folder / f"consolidated.{number:02}.pth")
    return folder


def tokenizer(path: Path, **more) -> None:
    """Train a small SentencePiece model, with more settings of its trainer."""
    model = io.BytesIO()
    texts = ["Below is an instruction that describes a task", "Response Input Instruction history"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=300, hard_vocab_limit=False, minloglevel=2, **more
    )
    path.write_bytes(model.getvalue())
