"""HeLLM: item vectors between two pieces of prompt, LLaMA with graph adapters and LoRA, a score for every item."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama.graph_adapter import GraphAdapter
from llama.lora import LowRank, add_lora
from llama.model import ModelArgs, Transformer
from llama.parallel import ensure_model_parallel


class HeLLM(nn.Module):
    """The fine-tuned recommender of arXiv 2504.10541 (SPEC.md section 3). One forward for training and scoring.

    Built without allocating, then every parameter is filled once on the current device; under
    `with torch.device("meta")` nothing is filled, so that weights can be assigned and `fill` does the rest.

    Args:
        args: sizes and switches.
        graph_item_embedding: float (I, d_g), row = item id; frozen.
        seq_item_embedding: float (I + 1, d_s), row 0 padding, item i in row i + 1; frozen.
        instruct_ids, response_ids: token ids before and after the items (n,), either may be empty.
        dtype: number format of matrix products; bfloat16 computes under autocast around a float32 residual stream.

    Raises:
        ValueError: tables whose sizes do not fit each other, token ids beyond the vocabulary.
    """

    def __init__(
        self,
        args: ModelArgs,
        graph_item_embedding: Tensor,
        seq_item_embedding: Tensor,
        instruct_ids: Tensor,
        response_ids: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        ensure_model_parallel()
        device = torch.get_default_device()
        self.args, self.dtype = args, dtype
        self.n_items = len(graph_item_embedding)
        self._set_inputs(graph_item_embedding, seq_item_embedding, instruct_ids, response_ids)
        graph_dim, seq_dim = graph_item_embedding.shape[1], seq_item_embedding.shape[1]
        width = graph_dim * args.graph_input + seq_dim * args.seq_input
        with torch.device("meta"):
            self.llama = Transformer(args)
            if args.w_lora:
                add_lora(self.llama, args)
            self.item_projector = nn.Sequential(nn.Linear(width, args.dim), nn.GELU(), nn.Linear(args.dim, args.dim))
            self.graph_adapter = GraphAdapter(args, graph_dim) if args.w_adapter else None
            self.score = nn.Linear(args.dim, self.n_items, bias=False)
        set_trainable(self)
        if device.type != "meta":
            fill(self, device)

    def _set_inputs(self, graph_table: Tensor, seq_table: Tensor, instruct_ids, response_ids) -> None:
        if len(seq_table) != self.n_items + 1:
            raise ValueError(
                f"sequence table has {len(seq_table)} rows, the graph table {self.n_items}: "
                "it needs one row more (row 0 is padding)"
            )
        self.register_buffer("graph_item_embedding", graph_table.detach().float(), persistent=False)
        self.register_buffer("seq_item_embedding", seq_table.detach().float(), persistent=False)
        for name, ids in (("instruct_ids", instruct_ids), ("response_ids", response_ids)):
            ids = [int(token) for token in ids]
            if not all(0 <= token < self.args.vocab_size for token in ids):
                raise ValueError(f"{name} {ids} outside the vocabulary of {self.args.vocab_size}")
            ids = torch.tensor(ids, dtype=torch.int64, device=graph_table.device)
            self.register_buffer(name, ids, persistent=False)

    def item_vectors(self, items: Tensor) -> Tensor:
        """x_t = W₂ · GELU(W₁ · [graph_t ; seq_t] + b₁) + b₂: int64 (B, T) to (B, T, D)."""
        parts = []
        if self.args.graph_input:
            parts.append(self.graph_item_embedding[items])
        if self.args.seq_input:
            parts.append(self.seq_item_embedding[items + 1])
        return self.item_projector(torch.cat(parts, -1))

    def hidden(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last hidden state, normalised, that the head reads: (B, D) float32. Arguments as in `forward`."""
        with torch.autocast(items.device.type, self.dtype, enabled=self.dtype != torch.float32):
            batch = len(items)
            instruct, response = (
                self.llama.tok_embeddings(ids)[None].expand(batch, -1, -1).float()
                for ids in (self.instruct_ids, self.response_ids)
            )
            h = torch.cat([instruct, self.item_vectors(items).float(), response], 1)
            prefix = None
            if self.graph_adapter is not None:
                prefix = self.graph_adapter(self._graph_rows(items, mask))
            if mask is not None:
                mask = F.pad(mask, (instruct.shape[1], response.shape[1]), value=True)
            return self.llama(h, mask, prefix, last_only=True)[:, 0].float()

    def _graph_rows(self, items: Tensor, mask: Tensor | None) -> Tensor:
        rows = self.graph_item_embedding[items]  # (B, T, d_g)
        return rows if mask is None else rows * mask[..., None]

    def forward(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every item as the next one.

        Args:
            items: int64 (B, T) item ids, oldest first, left-padded with any valid id.
            mask: bool (B, T), False at padding; None where no row is padded.

        Returns: logits (B, I) float32.
        """
        return F.linear(self.hidden(items, mask), self.score.weight.float())

    def loss(self, items: Tensor, mask: Tensor | None, targets: Tensor) -> Tensor:
        """Mean cross-entropy (nats) of targets, int64 (B,), over all items; a float32 scalar."""
        return F.cross_entropy(self(items, mask), targets)


def set_trainable(model: HeLLM) -> None:
    """Decide by module what is trained: the new parts always, the head and the base by their switches."""
    model.requires_grad_(False)
    model.llama.requires_grad_(model.args.train_base)
    model.score.requires_grad_(model.args.train_score)
    for module in model.modules():
        if isinstance(module, (LowRank, GraphAdapter)) or module is model.item_projector:
            module.requires_grad_(True)


def fill(model: nn.Module, device: torch.device | str) -> None:
    """Allocate on `device` and initialise whatever is still on the meta device, module by module."""
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        empty = [name for name, p in own.items() if p.is_meta]
        if not empty:
            continue
        assert len(empty) == len(own), f"{type(module).__name__} is half filled: {empty} of {list(own)}"
        for name, p in own.items():
            setattr(module, name, nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad))
        module.reset_parameters()


def base_parameters(model: HeLLM) -> dict[str, nn.Parameter]:
    """LLaMA's own parameters by Meta's names, without the low-rank updates."""
    return {name: p for name, p in model.llama.named_parameters() if ".lora." not in name}
