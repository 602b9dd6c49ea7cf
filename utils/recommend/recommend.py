"""Show what a run recommends to a user or after a history, and what the graph adapter changes in it.

    python -m utils.recommend --run output/Beauty/MMHCL/best --user 42
    python -m utils.recommend --run output/Beauty/MMHCL/best --items 12,873,9
    python -m utils.recommend --run output/Beauty/MMHCL/best --html page.html

Prints the history and the best items, or writes a page: of that user or history, else of sampled users. Reads
`best_adapter.pt` and the settings in `training_state.pt` of the run's folder, or the `committee.json` of
python -m utils.ensemble and these files of its members, the data files of fine-tuning and, if they are there,
`item_text.tsv`, the id maps and `pictures/`. A base that was initialised at random and not trained is not saved: it is
initialised again from the seed, which gives equal weights only on the same kind of device.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor, nn

from llama.HeLLM import HeLLM
from preprocess.modalities.images import find_images
from preprocess.raw.item_files import (
    IMAGE_URL_FILE,
    ITEM_ID_FILE,
    ITEM_TEXT_FILE,
    USER_ID_FILE,
    USER_ID_HEADER,
    encode_id,
    read_item_ids,
    read_item_rows,
)
from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_numbers
from utils.data.interactions import Interactions
from utils.io.atomic import atomic_write
from utils.recommend.page import Catalogue, RankedItem, Recommendation, to_page
from utils.runtime.distributed import resolve_device
from utils.training.build import build_empty
from utils.training.checkpoints import STATE
from utils.training.committee import COMMITTEE_FILE, Committee, load_committee, read_committee
from utils.training.saved_run import load_model, read_run

ABLATED_NOTE = (
    "Without: the rank by the same weights when the history's graph vector is left out of the adapter's keys and "
    "values at every position. The keys and values learned for all histories stay; if there are none, the adapter is "
    "left out. Item vectors keep their graph embeddings. This shows what the vector changes in these weights, not what "
    "a model trained without it would recommend."
)


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of the recommendations; one comment per field, shown by --help."""

    run: str = ""  # folder of a run or a committee: output/DATASET/GNNMODEL/TARGET
    data_dir: str = "datasets"  # holds sequential/DATASET/
    model_name: str = ""  # base weights, if they have moved since the run
    user: str = ""  # number of a user; the last item is held out, as in the test, and marked
    items: tuple[str, ...] = ()  # instead of a user: numbers of a history's items, oldest first, comma-separated
    own_ids: bool = False  # user and items are ids of u_id_mapping.csv and i_id_mapping.csv instead of numbers
    whole: bool = False  # hold no item out: recommend what comes after the user's last item
    k: int = 10  # number of recommended items
    seen: bool = False  # also recommend items of the history
    html: str = ""  # write a page to this file instead of printing
    users: int = 12  # users sampled for a page without --user and --items
    seed: int = 0  # seed of this sample
    device: str = "auto"  # cuda, cpu, …; auto: CUDA if available


def validate_settings(settings: RecommendSettings) -> list[str]:
    """Return all problems of the settings, one phrase each."""
    problems = check_numbers(settings, at_least_1=("k", "users"), at_least_0=("seed",))
    if not settings.run:
        problems.append("--run is missing: the folder of a run, output/DATASET/GNNMODEL/TARGET")
    if settings.user and settings.items:
        problems.append("--user or --items, not both")
    if not (settings.user or settings.items or settings.html):
        problems.append("whose recommendations: --user, --items, or --html for a page of sampled users")
    page = Path(settings.html)
    if settings.html and page.is_dir():
        problems.append(f"--html {page}: is a folder; give the path of a file")
    elif not page.parent.is_dir():
        problems.append(f"--html {page}: no folder {page.parent}; make it first")
    return problems


@dataclass(frozen=True)
class Request:
    """A history to recommend after."""

    title: str
    items: list[int]  # all of them, oldest first
    held_out: int | None  # the item that came next


def load_run(settings: RecommendSettings) -> tuple[int, Interactions, HeLLM | Committee]:
    """Load what a run's folder holds: a model with its best adapter, or a committee.

    Returns:
        How many of a history's newest items it reads, its data with full histories, and the model.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file does not fit the run; names it.
    """
    folder = Path(settings.run)
    device = resolve_device(settings.device)
    # A training into the folder of an earlier committee leaves its file there
    if (folder / COMMITTEE_FILE).is_file() and not (folder / STATE).is_file():
        if settings.model_name:
            raise ValueError(f"--model_name: {folder} is a committee, whose members have base weights of their own")
        data, committee = load_committee(*read_committee(folder, settings.data_dir), device)
        return committee.max_len - 1, data, committee
    run = read_run(folder, settings.data_dir, settings.model_name)
    data, model = load_model(run, device)
    return run.settings.max_len - 1, data, model


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


def read_catalogue(data: Interactions) -> Catalogue:
    """Read the names and pictures of users and items that are in the dataset's folder.

    Raises:
        ValueError: a file breaks its format; names path and line.
    """
    folder = data.path.parent
    titles = [""] * data.n_items
    item_ids = [""] * data.n_items
    user_ids = [""] * data.n_users
    if (folder / ITEM_TEXT_FILE).is_file():
        for _, item, rest in read_item_rows(folder / ITEM_TEXT_FILE, data.n_items, "\t"):
            item_ids[item], _, text = rest.partition("\t")
            titles[item] = text.partition("\t")[0]
    if (folder / ITEM_ID_FILE).is_file() or (folder / IMAGE_URL_FILE).is_file():
        item_ids = read_item_ids(folder, data.n_items)
    if (folder / USER_ID_FILE).is_file():
        for _, user, name in read_item_rows(folder / USER_ID_FILE, data.n_users, ",", USER_ID_HEADER):
            user_ids[user] = name
    pictures = folder / "pictures"
    return Catalogue(titles, item_ids, user_ids, find_images(pictures) if pictures.is_dir() else {})


def resolve_ids(words: tuple[str, ...], flag: str, n: int, ids: list[str] | None, source: Path) -> list[int]:
    """Return the numbers of the users or items that a flag gives.

    Args:
        words: values of the flag.
        flag: its name.
        n: number of users or items.
        ids: their ids, if the flag gives ids; None if it gives numbers.
        source: the file that lists them, for errors.

    Raises:
        ValueError: a value is unknown, or there are no ids.
    """
    names = map(str, range(n)) if ids is None else ids
    known = {name: number for number, name in enumerate(names) if name}
    if not known:
        raise ValueError(f"{source}: missing or without ids; leave out --own_ids and give numbers")
    keys = words if ids is None else tuple(map(encode_id, words))
    unknown = [word for word, key in zip(words, keys, strict=True) if key not in known]
    if unknown:
        remedy = f"numbers are 0 to {n - 1}, --own_ids takes ids" if ids is None else "no such id"
        raise ValueError(f"--{flag} {', '.join(unknown)}: not in {source}; {remedy}")
    return [known[key] for key in keys]


def read_requests(settings: RecommendSettings, data: Interactions, catalogue: Catalogue) -> Iterator[Request]:
    """Yield the histories that the settings ask for.

    Raises:
        ValueError: there is no such user or item, or nothing is left of the history.
    """
    folder = data.path.parent
    if settings.items:
        ids, source = (catalogue.item_ids, folder / ITEM_ID_FILE) if settings.own_ids else (None, data.path)
        yield Request("items given", resolve_ids(settings.items, "items", data.n_items, ids, source), None)
        return
    users = np.flatnonzero(data.n_kept >= (1 if settings.whole else 2))
    if settings.user:
        ids, source = (catalogue.user_ids, folder / USER_ID_FILE) if settings.own_ids else (None, data.path)
        (user,) = resolve_ids((settings.user,), "user", data.n_users, ids, source)
        if user not in users:
            raise ValueError(f"--user {settings.user}: one item, and none left when it is held out; try --whole")
        users = [user]
    else:
        rng = np.random.default_rng(settings.seed)
        users = sorted(rng.choice(users, min(settings.users, len(users)), replace=False).tolist())
    for user in users:
        items = data.kept_items(user).tolist()
        name = unquote(catalogue.user_ids[user])
        title = f"user {user} ({name})" if name else f"user {user}"
        yield Request(title, items, None) if settings.whole else Request(title, items[:-1], items[-1])


@torch.no_grad()
def recommend(models: list[nn.Module], request: Request, n_newest: int, settings: RecommendSettings) -> Recommendation:
    """Rank all items after a history; of equal scores the lower item comes first.

    Args:
        models: the run's model or committee and, if it has a graph adapter, the one without the graph vector.
        request: the history.
        n_newest: how many of its newest items the model reads.
        settings: how many items to recommend, and whether seen ones count.
    """
    history = request.items[-n_newest:]
    excluded = [] if settings.seen else sorted(set(request.items) - {request.held_out})
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

    k = min(settings.k, len(scores[0]) - len(excluded))
    best = [ranked_item(item) for item in orders[0][:k]]
    ablated_best = [ranked_item(item) for item in orders[-1][:k]]
    return Recommendation(
        title=request.title,
        history=history,
        best=best,
        held_out=None if request.held_out is None else ranked_item(request.held_out),
        only_without_graph=[ranked for ranked in ablated_best if ranked not in best],
    )


def format_text(found: Recommendation, catalogue: Catalogue) -> str:
    """Format the history and the best items, one line each."""

    def label(item: int) -> str:
        names = filter(None, (catalogue.item_name(item), catalogue.titles[item]))
        return f"{item:>7}  " + "  ".join(names)

    is_ablated = bool(found.best) and found.best[0].ablated_rank is not None
    lines = [f"history of {found.title}, oldest first:", *(f"{'':>23}{label(item)}" for item in found.history), ""]
    lines.append(f"rank    score  {'without' if is_ablated else '':>7}{'item':>8}")
    held_out = [] if found.held_out is None else [found.held_out]
    for ranked in dict.fromkeys(found.best + held_out + found.only_without_graph):
        line = f"{ranked.rank:>4}  {ranked.score:>7.3f}  {ranked.ablated_rank or '':>7} {label(ranked.item)}"
        if ranked == found.held_out:
            line += "  <- held out: what came next"
        if ranked in found.only_without_graph:
            line += "  (among the best without the graph adapter)"
        lines.append(line)
    if is_ablated:
        lines += ["", ABLATED_NOTE]
    return "\n".join(lines) + "\n"


def run(settings: RecommendSettings) -> None:
    """Print the recommendations, or write the page.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file or a flag is wrong; names it and what to do.
    """
    n_newest, data, model = load_run(settings)
    catalogue = read_catalogue(data)
    ablated = ablate_graph_vector(model)
    models = [model] if ablated is None else [model, ablated]
    requests = list(read_requests(settings, data, catalogue))
    recommendations = [recommend(models, request, n_newest, settings) for request in requests]
    if not settings.html:
        print(format_text(recommendations[0], catalogue), end="")
        return
    title = f"What {Path(settings.run).resolve().name} recommends on {data.path.stem}"
    note = ABLATED_NOTE if ablated else ""
    path = Path(settings.html)
    with atomic_write(path) as temporary:
        temporary.write_text(to_page(title, note, recommendations, catalogue), encoding="utf-8")
    print(f"written: {path}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    description = "Show what a run recommends."
    settings = parse_settings(RecommendSettings, argv, "python -m utils.recommend", description, validate_settings)
    return run_program(run, settings)


if __name__ == "__main__":
    sys.exit(main())
