"""The histories that a command line asks recommendations for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from utils.data.interactions import Interactions
from utils.recommend.names import Catalogue
from utils.recommend.recommend import RecommendSettings


@dataclass(frozen=True)
class Request:
    """A history to recommend after."""

    title: str  # whose it is
    items: list[int]  # all of them, oldest first
    held_out: int | None  # the item that came next


def read_requests(settings: RecommendSettings, data: Interactions, catalogue: Catalogue) -> Iterator[Request]:
    """Yield the histories that the settings ask for.

    Raises:
        ValueError: there is no such user or item, or nothing is left of the history.
    """
    if settings.items:
        yield Request("the items given", catalogue.items.numbers(settings.items, "--items"), None)
        return
    users = np.flatnonzero(data.n_kept >= (1 if settings.whole else 2))
    if settings.user:
        (user,) = catalogue.users.numbers([settings.user], "--user")
        if user not in users:
            raise ValueError(f"--user {settings.user}: one item, and none left when it is held out; try --whole")
        users = [user]
    else:
        rng = np.random.default_rng(settings.seed)
        users = sorted(rng.choice(users, min(settings.users, len(users)), replace=False).tolist())
    for user in users:
        items = data.kept_items(user).tolist()
        title = f"user {catalogue.users.describe(user)}"
        yield Request(title, items, None) if settings.whole else Request(title, items[:-1], items[-1])
