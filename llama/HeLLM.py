"""HeLLM: item vectors between two pieces of prompt, LLaMA with graph adapters and LoRA, a score for every item."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama.causal import causal_pass, left_to_right_padding
from llama.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from llama.graph_adapter import GraphAdapter
from llama.lora import LowRank, add_lora
from llama.model import ModelArgs, Transformer
from llama.parallel import INIT_STD, init_model_parallel


class ItemIdEmbedding(nn.Embedding):
    """A learned vector an item, which starts small."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)


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
        init_model_parallel()
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
            self.item_ids = ItemIdEmbedding(self.n_items, args.dim) if args.item_ids else None
            self.score = nn.Linear(args.dim, args.dim if args.tie_score else self.n_items, bias=False)
        set_trainable(self)
        if device.type != "meta":
            materialize(self, device)

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
            if outside := [token for token in ids if not 0 <= token < self.args.vocab_size]:
                raise ValueError(
                    f"{name} {outside[:5]} outside the vocabulary of {self.args.vocab_size}; "
                    "take the tokenizer.model that comes with the weights"
                )
            ids = torch.tensor(ids, dtype=torch.int64, device=graph_table.device)
            self.register_buffer(name, ids, persistent=False)

    def item_vectors(self, items: Tensor) -> Tensor:
        """x_t = W₂ · GELU(W₁ · [graph_t ; seq_t] + b₁) + b₂: int64 (…) to (…, D)."""
        parts = []
        if self.args.graph_input:
            parts.append(self.graph_item_embedding[items])
        if self.args.seq_input:
            parts.append(self.seq_item_embedding[items + 1])
        vectors = self.item_projector(torch.cat(parts, -1))
        return vectors if self.item_ids is None else vectors + self.item_ids(items)

    def encode(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last hidden states, normalised, that the head reads: (B, D) float32. Arguments as in `forward`."""
        if self.args.objective == "causal":
            items, lengths = left_to_right_padding(items, mask)
            return self._causal(items, (lengths[:, None] - 1).clamp(min=0))[:, 0]
        with self._autocast(items):
            prompt = [p.expand(len(items), -1, -1) for p in self._prompt()]
            h = torch.cat([prompt[0], self._inputs(items), prompt[1]], 1)
            prefix = None
            if self.graph_adapter is not None:
                prefix = self.graph_adapter(self._graph_rows(items, mask))
            if mask is not None:
                mask = F.pad(mask, (prompt[0].shape[1], prompt[1].shape[1]), value=True)
            return self.llama(h, mask, prefix, last_only=True)[:, 0].float()

    def _autocast(self, items: Tensor):
        return torch.autocast(items.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _prompt(self) -> list[Tensor]:
        return [self.llama.tok_embeddings(ids)[None].float() for ids in (self.instruct_ids, self.response_ids)]

    def _inputs(self, items: Tensor) -> Tensor:
        return F.dropout(self.item_vectors(items).float(), self.args.dropout, self.training)

    def _graph_rows(self, items: Tensor, mask: Tensor | None) -> Tensor:
        rows = self.graph_item_embedding[items]  # (B, T, d_g)
        return rows if mask is None else rows * mask[..., None]

    def _causal(self, items: Tensor, at: Tensor | None = None) -> Tensor:
        """Hidden states of right-padded items (B, T) at the positions `at` (B, K), or at all: float32."""
        with self._autocast(items):
            adapter = learned = None
            if self.graph_adapter is not None:
                adapter = self.graph_adapter(self._graph_rows(items, None), running=True)
                learned = self.graph_adapter.layers({}) if self.args.prefix_adapter else None
            return causal_pass(
                self.llama, torch.cat(self._prompt(), 1), self._inputs(items), adapter, learned, at
            ).float()

    def forward(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every item as the next one.

        Args:
            items: int64 (B, T) item ids, oldest first, left-padded with any valid id.
            mask: bool (B, T), False at padding; None where no row is padded.

        Returns: logits (B, I) float32.
        """
        return F.linear(*self._head(self.encode(items, mask)))

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied for logits: (…, D) and a row an item (I, D), both float32."""
        if not self.args.tie_score:
            return hidden, self.score.weight.float()
        every = torch.arange(self.n_items, device=hidden.device)
        with self._autocast(every):
            vectors = self._inputs(every)
        return F.linear(hidden, self.score.weight.float()), vectors

    def loss(self, items: Tensor, mask: Tensor | None, targets: Tensor, n_targets: int | None = None) -> Tensor:
        """Mean cross-entropy (nats) over all items, or a sample of them; a float32 scalar.

        Args:
            items, mask: as in `forward`.
            targets: int64 (B,), or (B, T) under the causal objective: the item that follows each position.
            n_targets: how many positions are real, where the caller knows it: a GPU need not be asked then.
        """
        if self.args.objective == "causal":
            right, lengths = left_to_right_padding(items, mask)
            hidden, targets = self._causal(right).flatten(0, 1), targets.flatten()
            if mask is not None:
                place = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
                n = int(mask.sum()) if n_targets is None else n_targets
                hidden, targets = hidden[true_indices(place, n)], targets[true_indices(mask, n)]
        else:
            hidden = self.encode(items, mask)
        (hidden, weight), smoothing = self._head(hidden), self.args.label_smoothing
        if self.args.n_negatives and self.training:
            drawn = torch.randperm(self.n_items, device=hidden.device)[: self.args.n_negatives]
            return sampled_cross_entropy(hidden, weight, targets, drawn, smoothing)
        if self.args.objective == "causal":
            return linear_cross_entropy(hidden, weight, targets, smoothing)
        return F.cross_entropy(F.linear(hidden, weight), targets, label_smoothing=smoothing)


def true_indices(flags: Tensor, n: int) -> Tensor:
    """Where the n true ones of some flags are, in order, without waiting for the device: int64 (n,)."""
    return (~flags).flatten().byte().argsort(stable=True)[:n]


def set_trainable(model: HeLLM) -> None:
    """Decide by module what is trained: the new parts always, the head and the base by their switches."""
    model.requires_grad_(False)
    model.llama.requires_grad_(model.args.train_base)
    model.score.requires_grad_(model.args.train_score or model.args.tie_score)
    for module in model.modules():
        if isinstance(module, (LowRank, GraphAdapter, ItemIdEmbedding)) or module is model.item_projector:
            module.requires_grad_(True)


def materialize(model: nn.Module, device: torch.device | str) -> None:
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
