"""The work of each process that shares a tiny HeLLM, in the tests of model parallelism."""

from pathlib import Path

import torch

from llama.checkpoint import load_base_weights
from llama.HeLLM import HeLLM, HeLLMArgs
from llama.model import ModelArgs, Transformer
from llama.parallel import init_model_parallel, mp_rank, mp_size, shard_dims, unshard
from utils.training.adapter_file import save_adapter


def build() -> HeLLM:
    """Build the same model for any number of processes."""
    torch.manual_seed(3)
    args = HeLLMArgs(
        dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=16, multiple_of=16, max_seq_len=64, adapter_len=3,
        lora_r=4, lora_alpha=8, lora_dropout=0.0, graph_dropout=0.0, lora_targets=("w1", "w2", "w3", "wq", "wo"),
        train_score=True, train_base=True,
    )  # fmt: skip
    return HeLLM(args, torch.randn(20, 5), torch.randn(21, 6), [1, 5, 7], [1, 2])


def train(model: HeLLM) -> list[float]:
    """Take ten AdamW steps on padded batches; return their losses."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(10):
        items = torch.randint(0, 20, (6, 7), generator=generator)
        mask = torch.arange(7) >= torch.randint(0, 6, (6, 1), generator=generator)
        loss = model.loss(items, mask, torch.randint(0, 20, (6,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def unsharded_parameters(model: HeLLM) -> dict[str, torch.Tensor]:
    """Gather every parameter from all processes."""
    dims = shard_dims(model)
    return {name: unshard(p.detach(), dims[name]).clone() for name, p in model.named_parameters()}


@torch.no_grad()
def read_base(folder: Path) -> dict[str, torch.Tensor | int]:
    """Read a base from a weight folder; return hidden states of it and its memory.

    `needed` is the number of bytes of this process's parameters, `allocated` that of the storage behind them.
    """
    args = ModelArgs(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=16, multiple_of=16)
    with torch.device("meta"):
        transformer = Transformer(args)
    load_base_weights(transformer, folder, torch.float32)
    needed = sum(p.nbytes for p in transformer.parameters())
    allocated = sum(p.untyped_storage().nbytes() for p in transformer.parameters())
    hidden = transformer(transformer.tok_embeddings(torch.arange(12).view(2, 6)))
    return {"hidden": hidden, "needed": needed, "allocated": allocated}


def train_and_write(folder: Path) -> None:
    """Train the model over two processes; write what each of them has seen."""
    init_model_parallel(2)
    model = build()
    start = unsharded_parameters(model)
    losses = train(model)
    save_adapter(model, folder / "adapter.pt")
    result = {"processes": mp_size(), "start": start, "losses": losses, "end": unsharded_parameters(model)}
    result["base"] = {path.name: read_base(path) for path in sorted(folder.glob("base*"))}
    torch.save(result, folder / f"rank{mp_rank()}.pt")
