"""Recommendations as one HTML file: cards with pictures, scaled down, within it; no script, no request."""

import base64
import io
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import unquote

from preprocess.modalities.images import open_image
from preprocess.modalities.shards import UnusableInputError
from utils.report.page import as_page

SIDE = 120  # pixels of a picture's longer side, at most
MAX_PIXELS = 50_000_000  # of a picture that is opened
NEWEST = 12  # items of a history that are shown
STYLE = """
h1, h2 { overflow-wrap: anywhere; }
ol { display: flex; flex-wrap: wrap; gap: .5rem; margin: .5rem 0 1rem; padding: 0; list-style: none; }
ol li { box-sizing: border-box; width: 9rem; padding: .45rem .55rem; font-size: .85rem; line-height: 1.35;
  overflow-wrap: anywhere; background: var(--raised); border: 1px solid var(--line); border-radius: 6px; }
ol.history li { width: 7.5rem; background: none; } ol.history img { height: 4rem; }
ol li.hit { border: 2px solid var(--ours); } .hit b { color: var(--ours); }
ol img { display: block; max-width: 100%; height: 6rem; margin-bottom: .35rem; object-fit: contain; }
ol small { display: block; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Catalogue:
    """What is known of users and items beside their numbers, by number; ids and titles are empty where unknown."""

    titles: list[str]
    ids: list[str]  # of items
    user_ids: list[str]
    pictures: dict[str, Path]  # by id


@dataclass(frozen=True)
class RankedItem:
    """Where an item stands in a ranking of all items, 1 the best."""

    item: int
    score: float  # logit
    rank: int
    without: int | None  # its rank without the graph adapter, where the model has one


@dataclass(frozen=True)
class Recommendation:
    """The best items after a history."""

    title: str  # whose history
    history: list[int]  # what the model has read, oldest first
    best: list[RankedItem]  # in order
    held_out: RankedItem | None  # what came next
    dropped: list[RankedItem]  # among the best without the graph adapter only

    @property
    def hit(self) -> bool:
        return self.held_out in self.best


def to_page(title: str, note: str, all_found: list[Recommendation], catalogue: Catalogue) -> str:
    """The whole page.

    Args:
        note: what "without" says, empty where nothing is said of it; all_found: a section each.
    """
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{_hit_summary(all_found)}</p>"]
    parts += [f'<p class="soft">{escape(note)}</p>'] * bool(note)
    for found in all_found:
        parts += _section(found, catalogue)
    return as_page(title, parts, STYLE)


def _hit_summary(all_found: list[Recommendation]) -> str:
    """How many of the held-out items are hits, with and without the graph adapter."""
    held_out = [found for found in all_found if found.held_out]
    if not held_out:
        return "Nothing is held out: what may come next."
    k = max(len(found.best) for found in held_out)
    text = f"Held out is each history's last item: {sum(found.hit for found in held_out)} of {len(held_out)} are among "
    text += f"the {k} best, framed"
    if held_out[0].held_out.without:
        n = sum(found.held_out.without <= len(found.best) for found in held_out)
        text += f"; {n} without the graph adapter"
    return text + "."


def _section(found: Recommendation, catalogue: Catalogue) -> list[str]:
    card, earlier = partial(_card, found, catalogue), max(len(found.history) - NEWEST, 0)
    parts = [f"<h2>{escape(found.title)}</h2>"]
    parts.append(f"<h3>History, newest last{f', after {earlier} earlier items' if earlier else ''}</h3>")
    parts += ['<ol class="history">', *(_item(item, catalogue) for item in found.history[-NEWEST:]), "</ol>"]
    parts += [f"<h3>The {len(found.best)} best</h3>", "<ol>", *map(card, found.best), "</ol>"]
    if found.held_out and not found.hit:
        parts += ["<h3>Held out, and not among them</h3>", "<ol>", card(found.held_out), "</ol>"]
    if found.dropped:
        parts += ["<h3>Among the best without the graph adapter only</h3>", "<ol>", *map(card, found.dropped), "</ol>"]
    return parts


def _card(found: Recommendation, catalogue: Catalogue, place: RankedItem) -> str:
    of_rank = f"<b>{place.rank}</b> · {place.score:.2f}"
    if place.without:
        of_rank += f"<small>without: {place.without}</small>"
    hit = place == found.held_out
    return _item(place.item, catalogue, of_rank + "<small><b>what came next</b></small>" * hit, hit)


def _item(item: int, catalogue: Catalogue, above: str = "", hit: bool = False) -> str:
    name = unquote(catalogue.ids[item])
    picture = _picture(catalogue, item)
    image = f'<img src="data:image/jpeg;base64,{picture}" alt="">' if picture else ""
    text, kind = escape(catalogue.titles[item]) or escape(name) or f"item {item}", ' class="hit"' if hit else ""
    return f'<li{kind}>{image}{above}<div title="{escape(name)} item {item}">{text}</div></li>'


def _picture(catalogue: Catalogue, item: int) -> str:
    """An item's picture as a small JPEG in base64, empty without a usable one."""
    path = catalogue.pictures.get(catalogue.ids[item])
    if path is None:
        return ""
    try:
        picture = open_image(path, MAX_PIXELS)
    except UnusableInputError:
        return ""
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()
