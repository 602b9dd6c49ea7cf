"""Rank all items after a history, with and without the history's graph vector."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from llama.HeLLM import HeLLM
from utils.recommend.requests import Request
from utils.training.build import build_empty
from utils.training.committee import Committee

ABLATED_NOTE = (
    "Without: the rank by the same weights when the history's graph vector is left out of the adapter's keys and "
    "values at every position. The keys and values learned for all histories stay; if there are none, the adapter is "
    "left out. Item vectors keep their graph embeddings. This shows what the vector changes in these weights, not what "
    "a model trained without it would recommend."
)


@dataclass(frozen=True)
class RankedItem:
    """An item in the ranking of all items."""

    item: int
    score: float  # logit
    rank: int  # 1 is the best
    ablated_rank: int | None  # rank without the graph vector; None if the model has no graph adapter


@dataclass(frozen=True)
class Recommendation:
    """The best items after a history."""

    title: str  # whose history it is
    history: list[int]  # the items that the model has read, oldest first
    best: list[RankedItem]  # in order
    held_out: RankedItem | None  # the item that came next
    only_without_graph: list[RankedItem]  # items among the best only without the graph vector

    @property
    def hit(self) -> bool:
        """Return whether the held-out item is among the best."""
        return self.held_out in self.best


def ablate_graph_vector(model: HeLLM | Committee) -> HeLLM | None:
    """Build a model of the same weights without the history's graph vector; None if the model has no graph adapter.

    It is the model of --no-graph_adapter, or of --no-w_adapter if the adapter has no learned keys and values. A
    committee has none: what the vector changes is asked of its members.
    """
    if isinstance(model, Committee) or model.graph_adapter is None or not model.args.graph_adapter:
        return None
    args = replace(model.args, graph_adapter=False, w_adapter=model.args.prefix_adapter)
    prompt = model.instruct_ids, model.response_ids
    ablated = build_empty(args, model.tables, prompt, model.dtype)
    loaded = ablated.load_state_dict(model.state_dict(), strict=False, assign=True)
    assert not loaded.missing_keys
    return ablated.to(model.score.weight.device).eval()


@torch.no_grad()
def explain(models: list[nn.Module], request: Request, n_newest: int, k: int, seen: bool) -> Recommendation:
    """Rank all items after a history; of equal scores the lower item comes first.

    Args:
        models: the run's model or committee and, if it has a graph adapter, the one without the graph vector.
        request: the history.
        n_newest: how many of its newest items the model reads.
        k: number of recommended items.
        seen: also recommend items of the history.
    """
    history = request.items[-n_newest:]
    excluded = [] if seen else sorted(set(request.items) - {request.held_out})
    scores, orders, ranks = [], [], []  # one entry per model
    for model in models:
        row = model(torch.tensor([history], device=next(model.parameters()).device))[0].cpu()
        row[excluded] = -torch.inf
        order = row.argsort(descending=True, stable=True)
        scores.append(row)
        orders.append(order)
        ranks.append(order.argsort() + 1)

    def ranked_item(item: int | Tensor) -> RankedItem:
        rank, *ablated = (int(of_model[item]) for of_model in ranks)
        return RankedItem(int(item), float(scores[0][item]), rank, ablated[0] if ablated else None)

    k = min(k, len(scores[0]) - len(excluded))
    best = [ranked_item(item) for item in orders[0][:k]]
    ablated_best = [ranked_item(item) for item in orders[-1][:k]]
    return Recommendation(
        title=request.title,
        history=history,
        best=best,
        held_out=None if request.held_out is None else ranked_item(request.held_out),
        only_without_graph=[ranked for ranked in ablated_best if ranked not in best],
    )
