"""Recommendations as one HTML file with item cards and their pictures, without scripts or requests."""

from pathlib import Path

from utils.recommend.explain import Recommendation
from utils.recommend.names import Catalogue
from utils.report.page import render

TEMPLATE = Path(__file__).with_name("templates") / "recommend.html"
N_NEWEST = 12  # items of a history on the page


def to_page(title: str, note: str, recommendations: list[Recommendation], catalogue: Catalogue) -> str:
    """Format the page.

    Args:
        title: title of the page.
        note: explains the ranks without the graph vector; "" without them.
        recommendations: one section each.
        catalogue: names and pictures of users and items.
    """
    return render(
        TEMPLATE,
        title=title,
        summary=_hit_summary(recommendations),
        note=note,
        recommendations=recommendations,
        catalogue=catalogue,
        n_newest=N_NEWEST,
    )


def _hit_summary(recommendations: list[Recommendation]) -> str:
    """Say how many of the held-out items are among the best, with and without the graph adapter."""
    held_out = [found for found in recommendations if found.held_out]
    if not held_out:
        return "No item is held out: the best items are what may come next."
    k = max(len(found.best) for found in held_out)
    n_hits = sum(found.hit for found in held_out)
    text = f"The last item of each history is held out: {n_hits} of {len(held_out)} are among the {k} best, framed"
    if held_out[0].held_out.ablated_rank:
        n_ablated = sum(found.held_out.ablated_rank <= len(found.best) for found in held_out)
        text += f"; {n_ablated} without the graph adapter"
    return text + "."
