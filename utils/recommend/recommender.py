"""Recommend items with a finished run, after one history or for all users (`utils.recommend.load`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from llama.HeLLM import HeLLM
from utils.data.batches import scoring_batches, to_device
from utils.data.interactions import Interactions
from utils.recommend.names import Catalogue, read_catalogue
from utils.runtime.distributed import resolve_device
from utils.training.committee import Committee, is_committee, load_committee, read_committee
from utils.training.saved_run import load_model, read_run

MAX_BLOCK_USERS = 4096  # users whose recommendations are in memory at once, at most
MAX_BLOCK_ROWS = 2**22  # their recommendations, at most


class Recommended(NamedTuple):
    """A recommended item."""

    rank: int  # 1 is the best
    item: str  # its raw id
    title: str  # "" where unknown
    score: float  # logit; of a committee, the weighted sum of the members' log-softmax


class UserBlock(NamedTuple):
    """The recommendations of some users, in order of their numbers."""

    users: np.ndarray  # int64 (n,)
    items: np.ndarray  # int64 (n, k), the best first
    scores: np.ndarray  # float (n, k), −∞ for items that are not recommended


@dataclass(frozen=True)
class Recommender:
    """A run, or a committee, with its data and the names of users and items."""

    model: HeLLM | Committee
    data: Interactions  # with full histories
    catalogue: Catalogue
    n_newest: int  # how many of a history's newest items the model reads
    batch_size: int  # users per forward pass

    def history(self, user: str | int) -> list[str]:
        """Return the raw ids of all items of a user, oldest first.

        Args:
            user: a raw id; or our number, as an integer or as "#42".

        Raises:
            ValueError: there is no such user.
        """
        (number,) = self.catalogue.users.numbers([user], "user")
        return [self.catalogue.items.names[item] for item in self.data.kept_items(number)]

    def recommend(self, items: Sequence[str | int], k: int = 10, seen: bool = False) -> list[Recommended]:
        """Recommend items after a history.

        Args:
            items: the history, oldest first: raw ids; or our numbers, as integers or as "#42".
            k: number of recommended items; fewer where there are fewer.
            seen: also recommend items of the history.

        Returns:
            The items, the best first; of equal scores the lower number comes first.

        Raises:
            ValueError: there is no such item, the history is empty, or `k` is below 1.
        """
        if isinstance(items, str) or not len(items) or k < 1:
            raise ValueError(f"items {items!r}, k {k}: a list of one or more items, and a k of 1 or more are expected")
        history = np.array(self.catalogue.items.numbers(items, "items"))
        best, scores = self._best([history], k, seen)
        return self._named(best[0], scores[0])

    def recommend_all(self, k: int = 10, seen: bool = False) -> Iterator[UserBlock]:
        """Yield the recommendations of all users after their complete histories, in blocks of bounded size."""
        k = min(k, self.data.n_items)
        n_users = self.data.n_users
        block_users = max(1, min(MAX_BLOCK_USERS, MAX_BLOCK_ROWS // k))
        # None: tqdm shows no bar unless standard error is a terminal
        with tqdm(total=n_users, desc="recommending", unit="users", disable=None, leave=False) as bar:
            for first in range(0, n_users, block_users):
                users = np.arange(first, min(first + block_users, n_users))
                histories = [self.data.kept_items(user) for user in users]
                items = np.zeros((len(users), k), np.int64)
                scores = np.zeros((len(users), k))
                lengths = np.minimum([len(history) for history in histories], self.n_newest)
                for rows in scoring_batches(lengths, self.batch_size):
                    items[rows], scores[rows] = self._best([histories[row] for row in rows], k, seen)
                    bar.update(len(rows))
                yield UserBlock(users, items, scores)

    def rows(self, block: UserBlock) -> Iterator[tuple[str, Recommended]]:
        """Yield user and item of all recommendations of a block, by their raw ids."""
        for user, items, scores in zip(*block, strict=True):
            for recommended in self._named(items, scores):
                yield self.catalogue.users.names[user], recommended

    @torch.no_grad()
    def _best(self, histories: list[np.ndarray], k: int, seen: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best items after each history and their scores, (B, k) each, as `UserBlock` has them."""
        device = next(self.model.parameters()).device
        newest = [history[-self.n_newest :] for history in histories]
        length = np.array([len(history) for history in newest])
        mask = np.arange(length.max()) >= length.max() - length[:, None]
        padded = np.zeros(mask.shape, np.int64)
        padded[mask] = np.concatenate(newest)
        scores = self.model(
            to_device(torch.from_numpy(padded), device),
            None if mask.all() else to_device(torch.from_numpy(mask), device),
        )
        if not seen:
            row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
            pairs = to_device(torch.from_numpy(np.stack([row, np.concatenate(histories)])), device)
            scores[pairs[0], pairs[1]] = -torch.inf
        best_scores, items = best_items(scores, k)
        return items.cpu().numpy(), best_scores.double().cpu().numpy()

    def _named(self, items: np.ndarray, scores: np.ndarray) -> list[Recommended]:
        names = self.catalogue.items.names
        titles = self.catalogue.titles
        ranked = enumerate(zip(items.tolist(), scores.tolist(), strict=True), 1)
        return [
            Recommended(rank, names[item], titles[item], score) for rank, (item, score) in ranked if score > -np.inf
        ]


def best_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores and numbers of the best items of each row, the best first; of equal scores the lower item first.

    Args:
        scores: float (B, I).
        k: number of items; I if it is larger.

    Returns:
        float (B, k) and int64 (B, k).
    """
    k = min(k, scores.shape[1])
    best, items = scores.topk(k)
    # topk takes any of equal scores; the few rows in which that matters are sorted as a whole
    is_tied = (best[:, 1:] == best[:, :-1]).any(1) | ((scores >= best[:, -1:]).sum(1) > k)
    tied_scores = scores[is_tied]
    items[is_tied] = tied_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    best[is_tied] = tied_scores.gather(1, items[is_tied])
    return best, items


def load_recommender(run: str, data_dir: str, model_name: str, device: str) -> Recommender:
    """Load what a run's folder holds; see `utils.recommend.load`.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file does not fit the run; names it.
    """
    folder = Path(run)
    torch_device = resolve_device(device)
    if is_committee(folder):
        if model_name:
            raise ValueError(f"--model_name: {folder} is a committee, whose members have base weights of their own")
        runs, weights = read_committee(folder, data_dir)
        data, model = load_committee(runs, weights, torch_device)
        max_len = model.max_len
    else:
        runs = [read_run(folder, data_dir, model_name)]
        data, model = load_model(runs[0], torch_device)
        max_len = runs[0].settings.max_len
    batch_size = min(run.settings.eval_batch_size for run in runs)
    return Recommender(model, data, read_catalogue(data), max_len - 1, batch_size)
