"""HeLLM: item vectors between two pieces of prompt, LLaMA with graph adapters and LoRA, a score for every item."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama.causal import causal_pass, to_right_padding
from llama.cross_entropy import SoftTargets, linear_cross_entropy, sampled_cross_entropy
from llama.graph_adapter import GraphAdapter
from llama.lora import LowRank, add_lora
from llama.model import ModelArgs, Transformer
from llama.parallel import INIT_STD, init_model_parallel


@dataclass(frozen=True)
class HeLLMArgs(ModelArgs):
    """Sizes of LLaMA, and what HeLLM adds to it. `dropout` acts on item vectors, too.

    Raises:
        ValueError: settings that contradict each other; names all of them.
    """

    w_adapter: bool = True  # adapter key/value positions in every layer
    adapter_len: int = 10  # A, adapter positions per layer
    prefix_adapter: bool = True  # adapter positions contain a learned prefix
    graph_adapter: bool = True  # add the history's pooled graph embeddings to the adapter positions
    graph_rank: int = 0  # width of a learned projection before the pooling; 0: no projection, as published
    graph_mean: bool = False  # divide the pooled graph by the history's length
    graph_dropout: float = 0.3  # in the graph adapter's MLPs
    graph_input: bool = True  # graph embedding in the item vectors
    seq_input: bool = True  # sequence embedding in the item vectors
    feature_input: bool = False  # reduced item features in the item vectors
    item_ids: bool = False  # add a learned embedding of each item to its vector
    w_lora: bool = True  # low-rank updates of LLaMA's matrices
    lora_r: int = 16  # rank of the updates
    lora_alpha: float = 16  # the updates are scaled by lora_alpha / lora_r
    lora_dropout: float = 0.05  # on the input of the updates
    lora_targets: tuple[str, ...] = ("w1", "w2", "w3")  # the matrices, by Meta's names
    train_score: bool = False  # train the output head
    tie_score: bool = False  # the head is the item vectors, through a learned matrix
    train_base: bool = False  # train LLaMA itself
    objective: str = "prefix"  # prefix: one pass per history, as published; causal: one per user, a loss per position
    label_smoothing: float = 0.0  # fraction of the target's probability that is spread over all items
    n_negatives: int = 0  # items sampled per step for a sampled softmax; 0: all items

    def problems(self) -> list[str]:
        """Return one phrase per pair of settings that contradict each other."""
        problems = super().problems()
        if self.w_adapter and not (self.prefix_adapter or self.graph_adapter):
            problems.append("w_adapter needs prefix_adapter or graph_adapter")
        if not (self.graph_input or self.seq_input or self.feature_input):
            problems.append("an item vector needs graph_input, seq_input or feature_input")
        if self.objective not in ("prefix", "causal"):
            problems.append(f"objective {self.objective!r}: prefix or causal")
        if not self.n_layers and (self.w_adapter or self.objective == "prefix"):
            problems.append("n_layers 0 needs the causal objective and no w_adapter")
        return problems

    @property
    def n_adapter_positions(self) -> int:
        """Return the number of adapter positions in front of the tokens, which is the first token's position."""
        return self.adapter_len if self.w_adapter else 0


class ItemTables(NamedTuple):
    """Frozen vectors of all items; a table that the model does not read has no columns."""

    graph: Tensor  # float (I, d_g), row = item id
    sequence: Tensor  # float (I + 1, d_s), row 0 padding, item i in row i + 1
    features: Tensor  # float (I, d_f), row = item id


class ItemIdEmbedding(nn.Embedding):
    """A learned embedding of each item, which starts small."""

    def reset_parameters(self) -> None:
        """Initialise from N(0, INIT_STD)."""
        nn.init.normal_(self.weight, std=INIT_STD)


class HeLLM(nn.Module):
    """The fine-tuned recommender of arXiv 2504.10541 (docs/method.md, section 3). One forward for training and scoring.

    Built on the meta device, then every parameter is allocated and initialised once on the current device. Under
    `with torch.device("meta")` nothing is initialised: weights can be assigned, and `materialize` does the rest.

    Args:
        args: sizes and switches.
        graph_item_embedding: float (I, d_g), row = item id; frozen; (I, 0) where nothing reads it.
        seq_item_embedding: float (I + 1, d_s), row 0 padding, item i in row i + 1; frozen; (I + 1, 0) likewise.
        instruct_ids: token ids before the items (n,), may be empty.
        response_ids: token ids after the items (n,), may be empty.
        dtype: number format of matrix products; bfloat16 computes under autocast around a float32 residual stream.
        feature_embedding: float (I, d_f), row = item id; frozen; None likewise.

    Raises:
        ValueError: tables whose sizes do not match each other, or token ids beyond the vocabulary.
    """

    def __init__(
        self,
        args: HeLLMArgs,
        graph_item_embedding: Tensor,
        seq_item_embedding: Tensor,
        instruct_ids: Tensor,
        response_ids: Tensor,
        dtype: torch.dtype = torch.float32,
        feature_embedding: Tensor | None = None,
    ) -> None:
        super().__init__()
        init_model_parallel()
        device = torch.empty(0).device  # unlike get_default_device, also in torch 2.6 that of `with torch.device(…)`
        self.args = args
        self.dtype = dtype
        self.n_items, graph_dim = graph_item_embedding.shape
        if feature_embedding is None:
            feature_embedding = graph_item_embedding.new_empty(self.n_items, 0)
        self._register_tables(ItemTables(graph_item_embedding, seq_item_embedding, feature_embedding))
        self._register_prompt("instruct_ids", instruct_ids)
        self._register_prompt("response_ids", response_ids)
        with torch.device("meta"):
            self.llama = Transformer(args)
            if args.w_lora:
                add_lora(self.llama, args.lora_targets, args.lora_r, args.lora_alpha, args.lora_dropout)
            inputs = zip((args.graph_input, args.seq_input, args.feature_input), self.tables, strict=True)
            width = sum(table.shape[1] for is_input, table in inputs if is_input)
            self.item_projector = nn.Sequential(nn.Linear(width, args.dim), nn.GELU(), nn.Linear(args.dim, args.dim))
            self.graph_adapter = None
            if args.w_adapter:
                self.graph_adapter = GraphAdapter(
                    args,
                    graph_dim,
                    learned_prefix=args.prefix_adapter,
                    graph_vector=args.graph_adapter,
                    graph_rank=args.graph_rank,
                    graph_mean=args.graph_mean,
                    graph_dropout=args.graph_dropout,
                )
            self.item_ids = ItemIdEmbedding(self.n_items, args.dim) if args.item_ids else None
            # The head: one row per item, or, tied, a map of hidden states (D, D) before their product with item vectors
            self.score = nn.Linear(args.dim, args.dim if args.tie_score else self.n_items, bias=False)
        set_trainable(self)
        if device.type != "meta":
            materialize(self, device)

    def _register_tables(self, tables: ItemTables) -> None:
        n_rows = [len(table) for table in tables]
        if n_rows[1] != n_rows[0] + 1:
            raise ValueError(
                f"sequence table has {n_rows[1]} rows, the graph table {n_rows[0]}: "
                "it needs one row more (row 0 is padding)"
            )
        if n_rows[2] != n_rows[0]:
            raise ValueError(f"table of features has {n_rows[2]} rows, the graph table {n_rows[0]}")
        for name, table in zip(("graph_item", "seq_item", "feature"), tables, strict=True):
            self.register_buffer(f"{name}_embedding", table.detach().float(), persistent=False)

    def _register_prompt(self, name: str, ids: Tensor) -> None:
        ids = [int(token) for token in ids]
        if outside := [token for token in ids if not 0 <= token < self.args.vocab_size]:
            raise ValueError(
                f"{name} {outside[:5]} outside the vocabulary of {self.args.vocab_size}; "
                "take the tokenizer.model that comes with the weights"
            )
        ids = torch.tensor(ids, dtype=torch.int64, device=self.graph_item_embedding.device)
        self.register_buffer(name, ids, persistent=False)

    @property
    def padding(self) -> str:
        """Return the side on which a batch is best padded: the one for which no items have to be moved."""
        return "right" if self.args.objective == "causal" else "left"

    @property
    def tables(self) -> ItemTables:
        """Return the frozen tables."""
        return ItemTables(self.graph_item_embedding, self.seq_item_embedding, self.feature_embedding)

    def item_inputs(self, items: Tensor) -> Tensor:
        """Return [graph_t ; seq_t ; features_t], without what the settings leave out: int64 (…) to (…, width)."""
        parts = []
        if self.args.graph_input:
            parts.append(self.graph_item_embedding[items])
        if self.args.seq_input:
            parts.append(self.seq_item_embedding[items + 1])
        if self.args.feature_input:
            parts.append(self.feature_embedding[items])
        return torch.cat(parts, -1)

    def item_vectors(self, items: Tensor) -> Tensor:
        """Return x_t = W₂ · GELU(W₁ · [graph_t ; seq_t ; features_t] + b₁) + b₂: int64 (…) to (…, D)."""
        vectors = self.item_projector(self.item_inputs(items))
        return vectors if self.item_ids is None else vectors + self.item_ids(items)

    def encode(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the head reads, the normalised last hidden states: (B, D) float32. Arguments as in `forward`."""
        if self.args.objective == "causal":
            if mask is None:
                last_position = torch.full((len(items), 1), items.shape[1] - 1, device=items.device)
            else:
                mask, items = to_right_padding(mask, items)
                last_position = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
            return self._causal_hidden(items, last_position)[:, 0]
        with self._autocast(items):
            instruct, response = (vectors.expand(len(items), -1, -1) for vectors in self._prompt_vectors())
            h = torch.cat([instruct, self._input_vectors(items), response], 1)
            adapter = None
            if self.graph_adapter is not None:
                adapter = self.graph_adapter(self._graph_embeddings(items, mask))
            if mask is not None:
                mask = F.pad(mask, (instruct.shape[1], response.shape[1]), value=True)
            return self.llama(h, mask, adapter, last_only=True)[:, 0].float()

    def _graph_embeddings(self, items: Tensor, mask: Tensor | None) -> Tensor:
        """Return the graph embeddings of items (B, T): (B, T, d_g), zero at padding."""
        embeddings = self.graph_item_embedding[items]
        return embeddings if mask is None else embeddings * mask[..., None]

    def _autocast(self, items: Tensor) -> torch.autocast:
        return torch.autocast(items.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _prompt_vectors(self) -> list[Tensor]:
        return [self.llama.tok_embeddings(ids)[None].float() for ids in (self.instruct_ids, self.response_ids)]

    def _input_vectors(self, items: Tensor) -> Tensor:
        return F.dropout(self.item_vectors(items).float(), self.args.dropout, self.training)

    def _causal_hidden(self, items: Tensor, query_positions: Tensor | None = None) -> Tensor:
        """Return hidden states of right-padded items (B, T) at some positions (B, Q), or at all T: float32."""
        with self._autocast(items):
            adapter = prompt_adapter = None
            if self.graph_adapter is not None:
                adapter = self.graph_adapter(self.graph_item_embedding[items], cumulative=True)
                if self.args.prefix_adapter:
                    prompt_adapter = self.graph_adapter.prefix_inputs()
            prompt = torch.cat(self._prompt_vectors(), 1)
            vectors = self._input_vectors(items)
            return causal_pass(self.llama, prompt, vectors, adapter, prompt_adapter, query_positions).float()

    def forward(self, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score every item as the next one.

        Args:
            items: int64 (B, T) item ids, oldest first, padded with any valid id: on the left, or under the causal
                objective on either side.
            mask: bool (B, T), False at padding; None where no row is padded.

        Returns:
            Logits (B, I) float32.
        """
        return F.linear(*self._head_inputs(self.encode(items, mask)))

    def _head_inputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the logits: hidden states (…, D) and one row per item (I, D), both float32."""
        if not self.args.tie_score:
            return hidden, self.score.weight.float()
        # The head reads the vectors as LLaMA does, dropout included: it regularises them wherever they are used
        all_items = torch.arange(self.n_items, device=hidden.device)
        with self._autocast(all_items):
            vectors = self._input_vectors(all_items)
        return F.linear(hidden, self.score.weight.float()), vectors

    def target_scores(
        self, items: Tensor, mask: Tensor | None, targets: Tensor, n_targets: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of the logits at every position to learn from, and its target.

        Args:
            items: as in `forward`.
            mask: as in `forward`.
            targets: int64 (B,), or (B, T) under the causal objective: the item that follows each position.
            n_targets: number of real positions where the caller knows it, which avoids a GPU synchronisation.

        Returns:
            Hidden states (N, D) and one row per item (I, D), both float32, and targets int64 (N,).
        """
        if self.args.objective == "causal":
            if mask is not None:
                mask, items, targets = to_right_padding(mask, items, targets)
            hidden = self._causal_hidden(items).flatten(0, 1)
            targets = targets.flatten()
            if mask is not None:  # one loss per real position
                real = true_indices(mask, int(mask.sum()) if n_targets is None else n_targets)
                hidden = hidden[real]
                targets = targets[real]
        else:
            hidden = self.encode(items, mask)
        return *self._head_inputs(hidden), targets

    def loss(
        self,
        items: Tensor,
        mask: Tensor | None,
        targets: Tensor,
        n_targets: int | None = None,
        teacher: Callable[..., SoftTargets] | None = None,
    ) -> Tensor:
        """Return the mean cross-entropy (nats): a float32 scalar.

        The softmax is over all items; in training mode with args.n_negatives, over the target and that many sampled.

        Args:
            items: as in `target_scores`.
            mask: as in `target_scores`.
            targets: as in `target_scores`.
            n_targets: as in `target_scores`.
            teacher: takes the same and returns scores whose softmax is part of the targets; None: there are none.
        """
        hidden, weight, row_targets = self.target_scores(items, mask, targets, n_targets)
        smoothing = self.args.label_smoothing
        n_sampled = self.args.n_negatives if self.training else 0
        if n_sampled or teacher is not None:
            negatives = torch.randperm(self.n_items, device=hidden.device)[: n_sampled or self.n_items]
            soft_targets = None if teacher is None else teacher(items, mask, targets, n_targets)
            return sampled_cross_entropy(hidden, weight, row_targets, negatives, smoothing, soft_targets)
        if self.args.objective == "causal":
            return linear_cross_entropy(hidden, weight, row_targets, smoothing)
        return F.cross_entropy(F.linear(hidden, weight), row_targets, label_smoothing=smoothing)


def true_indices(flags: Tensor, n: int) -> Tensor:
    """Return the flat positions of the n true flags, in order, without a GPU synchronisation: int64 (n,).

    A stable sort puts them first. Its result has a known length, while `nonzero` waits for the GPU to count. It sorts
    bytes, because older releases of PyTorch do not sort booleans on CUDA.
    """
    return (~flags).flatten().byte().argsort(stable=True)[:n]


def set_trainable(model: HeLLM) -> None:
    """Decide by module what is trained: the new parts always, the rest by train_base, train_score and tie_score."""
    model.requires_grad_(False)
    model.llama.requires_grad_(model.args.train_base)
    model.score.requires_grad_(model.args.train_score or model.args.tie_score)
    for module in model.modules():
        if isinstance(module, (LowRank, GraphAdapter, ItemIdEmbedding)) or module is model.item_projector:
            module.requires_grad_(True)


def materialize(model: nn.Module, device: torch.device | str) -> None:
    """Allocate on `device` and initialise whatever is still on the meta device, module by module."""
    for module in model.modules():
        parameters = dict(module.named_parameters(recurse=False))
        on_meta = [name for name, p in parameters.items() if p.is_meta]
        if not on_meta:
            continue
        assert len(on_meta) == len(parameters), f"{type(module).__name__}: only {on_meta} of {list(parameters)} on meta"
        for name, p in parameters.items():
            setattr(module, name, nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad))
        module.reset_parameters()


def base_parameters(model: HeLLM) -> dict[str, nn.Parameter]:
    """Return LLaMA's parameters by Meta's names, without the low-rank updates."""
    return {name: p for name, p in model.llama.named_parameters() if ".lora." not in name}
