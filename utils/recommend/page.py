"""Recommendations as one HTML file with item cards and their pictures, without scripts or requests."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from preprocess.modalities.images import open_image
from preprocess.modalities.shards import UnusableInputError
from utils.report.page import render

TEMPLATE = Path(__file__).with_name("templates") / "recommend.html"
THUMBNAIL_SIDE = 120  # pixels of a picture's longer side, at most
MAX_PIXELS = 50_000_000  # larger pictures are not opened
N_NEWEST = 12  # items of a history on the page


@dataclass(frozen=True)
class Catalogue:
    """Names of users and items by their numbers; "" where unknown."""

    titles: list[str]  # of items
    item_ids: list[str]
    user_ids: list[str]
    pictures: dict[str, Path]  # by item id

    def item_name(self, item: int) -> str:
        """Return the decoded id of an item."""
        return unquote(self.item_ids[item])

    def label(self, item: int) -> str:
        """Return the title of an item; without one its id, without either its number."""
        return self.titles[item] or self.item_name(item) or f"item {item}"

    def thumbnail(self, item: int) -> str:
        """Return an item's picture as a small JPEG in base64; "" without a usable one."""
        path = self.pictures.get(self.item_ids[item])
        if path is None:
            return ""
        try:
            picture = open_image(path, MAX_PIXELS)
        except UnusableInputError:
            return ""
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=80)
        return base64.b64encode(content.getvalue()).decode()


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
