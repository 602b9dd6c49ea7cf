"""Recommendations as text of at most 100 columns."""

import textwrap

from utils.recommend.explain import RankedItem, Recommendation
from utils.recommend.names import Catalogue

WIDTH = 100  # columns
N_NEWEST = 10  # items of a history that are shown
MIN_TITLE = 20  # columns that a title has, however long the ids are


def format_text(found: Recommendation, note: str, catalogue: Catalogue) -> str:
    """Format the best items, one per line in order of rank, and below them the newest items of the history.

    Args:
        found: the recommendations.
        note: explains the ranks without the graph vector; "" without them.
        catalogue: names of items.
    """
    held_out = [] if found.held_out is None else [found.held_out]
    shown = sorted(dict.fromkeys(found.best + held_out + found.only_without_graph), key=lambda ranked: ranked.rank)
    newest = found.history[-N_NEWEST:]
    width = max(len(catalogue.items.names[item]) for item in [*(ranked.item for ranked in shown), *newest])
    lines = [f"{len(found.best)} recommendations for {found.title}:"]
    lines.append(f"rank    score  {'without  ' if note else ''}{'item':<{width}}  title".rstrip())
    for ranked in shown:
        ablated = f"{ranked.ablated_rank:>7}  " if note else ""
        start = f"{ranked.rank:>4}  {ranked.score:>7.3f}  {ablated}"
        lines.append(start + _name(ranked.item, width, catalogue, len(start), _remark(ranked, found)))
    if note:
        lines += ["", *textwrap.wrap(note, WIDTH)]
    of_all = f", the {len(newest)} newest of {len(found.history)} items" if len(newest) < len(found.history) else ""
    lines += ["", f"history{of_all}, newest first:"]
    lines += ["  " + _name(item, width, catalogue, 2) for item in reversed(newest)]
    return "\n".join(lines) + "\n"


def _remark(ranked: RankedItem, found: Recommendation) -> str:
    if ranked == found.held_out:
        return "  <- held out: what came next"
    if ranked in found.only_without_graph:
        return "  (among the best without the graph adapter)"
    return ""


def _name(item: int, width: int, catalogue: Catalogue, column: int, remark: str = "") -> str:
    """Return id and title of an item, the title cut to what is left of the line, and a remark."""
    space = max(WIDTH - column - width - 2 - len(remark), MIN_TITLE)
    title = catalogue.titles[item]
    if len(title) > space:
        title = title[: space - 1].rstrip() + "…"
    return f"{catalogue.items.names[item]:<{width}}  {title}".rstrip() + remark
