"""What a run recommends to a user or after a history, and what the graph adapter changes in it.

    python -m utils.recommend --run output/Beauty/MMHCL/best --user 42
    python -m utils.recommend --run output/Beauty/MMHCL/best --items 12,873,9
    python -m utils.recommend --run output/Beauty/MMHCL/best --html page.html

Prints the history and the best items, or writes a page: of that user or history, else of sampled users. Reads
`best_adapter.pt` and the settings in `training_state.pt` of the run's folder, the files that fine-tuning reads, and
what there is of `item_text.tsv`, the id maps and `pictures/`. LLaMA that was drawn at random and not trained is drawn
again from the seed, which gives the run's only on the kind of device that it ran on.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from config_HeLLM import Settings
from config_HeLLM import validate_settings as validate_run_settings
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
from utils.cli.restored import restore_settings
from utils.cli.validation import check_numbers
from utils.data.input_files import require_same_inputs
from utils.data.interactions import Interactions
from utils.data.layout import required_files
from utils.io.atomic import atomic_write
from utils.recommend.page import Catalogue, RankedItem, Recommendation, to_page
from utils.runtime.distributed import resolve_device
from utils.runtime.seed import seed_everything
from utils.training.adapter_file import load_adapter
from utils.training.build import build_empty, build_meta_model, build_model, load_data
from utils.training.checkpoints import BEST_ADAPTER, STATE, read_checkpoint

ABLATED_NOTE = (
    "Without: the rank by the same weights with the history's graph vector left out of the adapter's keys and values, "
    "at every position; what is learned for all histories stays in them, and if there is nothing, they go. Item "
    "vectors keep their graph embeddings. It is what the vector changes in these weights, not what a model trained "
    "without it would recommend."
)


@dataclass(frozen=True)
class RecommendSettings:
    """Whose recommendations are shown; a comment a field, shown by --help."""

    run: str = ""  # folder of a run: output/DATASET/GNNMODEL/TARGET
    data_dir: str = "datasets"  # holds sequential/DATASET/
    model_name: str = ""  # base weights, where they are no longer where the run had them
    user: str = ""  # number of a user, whose last item is held out, as in the test, and marked
    items: tuple[str, ...] = ()  # instead of a user: numbers of a history's items, oldest first, comma-separated
    own_ids: bool = False  # user and items are not numbers but the ids in u_id_mapping.csv and i_id_mapping.csv
    whole: bool = False  # hold nothing out: what comes after the user's last item
    k: int = 10  # how many items are recommended
    seen: bool = False  # recommend what is in the history, too
    html: str = ""  # write a page there instead of printing
    users: int = 12  # sampled for a page without --user and --items
    seed: int = 0  # of that sample
    device: str = "auto"  # cuda, cpu, …; auto: CUDA where there is one


def validate_settings(settings: RecommendSettings) -> list[str]:
    """Everything wrong with the settings by themselves, a phrase each."""
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
class History:
    """A request: what the model is to read, and what it need not recommend."""

    title: str
    items: list[int]  # oldest first, all of them
    held_out: int | None


def load_run(settings: RecommendSettings) -> tuple[Settings, Interactions, HeLLM]:
    """A run's settings, its data with whole histories, and its model as it validated best.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or does not fit.
    """
    folder = Path(settings.run)
    for name in (BEST_ADAPTER, STATE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: missing; --run takes the folder of a run of train_HeLLM.py that has validated once, "
                "output/DATASET/GNNMODEL/TARGET"
            )
    recorded = read_checkpoint(folder / STATE)["settings"]
    ran = restore_settings(Settings, recorded, folder / STATE, validate_run_settings)
    ran = replace(ran, data_dir=settings.data_dir, model_name=settings.model_name or ran.model_name)
    data, tables = load_data(replace(ran, max_len=0))
    require_same_inputs(folder, recorded, [*map(data.path.with_name, required_files(ran.dataset, ran.GNNModel))])
    device = resolve_device(settings.device)
    load_adapter(
        build_meta_model(ran, tables, device), folder / BEST_ADAPTER
    )  # before memory is taken for what may not fit
    seed_everything(ran.seed)
    model = build_model(ran, tables, device)
    load_adapter(model, folder / BEST_ADAPTER)
    return ran, data, model.eval()


def ablate_graph_vector(model: HeLLM) -> HeLLM | None:
    """The same weights as --no-graph_adapter builds them, or --no-w_adapter where nothing else is in the adapter.

    Returns: None if the model has no graph adapter.
    """
    if model.graph_adapter is None or not model.args.graph_adapter:
        return None
    args = replace(model.args, graph_adapter=False, w_adapter=model.args.prefix_adapter)
    tables, prompt = (model.graph_item_embedding, model.seq_item_embedding), (model.instruct_ids, model.response_ids)
    bare = build_empty(args, tables, prompt, model.dtype)
    found = bare.load_state_dict(model.state_dict(), strict=False, assign=True)
    assert not found.missing_keys
    return bare.to(model.score.weight.device).eval()


def read_catalogue(data: Interactions) -> Catalogue:
    """Whatever the dataset's folder says of its users and items.

    Raises:
        ValueError: naming path and line of what is wrong.
    """
    folder, n_items = data.path.parent, data.n_items
    titles, ids, user_ids = [""] * n_items, [""] * n_items, [""] * data.n_users
    if (folder / ITEM_TEXT_FILE).is_file():
        for _, item, rest in read_item_rows(folder / ITEM_TEXT_FILE, n_items, "\t"):
            ids[item], titles[item], *_ = [*rest.split("\t"), ""]
    if (folder / ITEM_ID_FILE).is_file() or (folder / IMAGE_URL_FILE).is_file():
        ids = read_item_ids(folder, n_items)
    if (folder / USER_ID_FILE).is_file():
        for _, user, name in read_item_rows(folder / USER_ID_FILE, data.n_users, ",", USER_ID_HEADER):
            user_ids[user] = name
    pictures = folder / "pictures"
    return Catalogue(titles, ids, user_ids, find_images(pictures) if pictures.is_dir() else {})


def resolve_ids(words: tuple[str, ...], flag: str, n: int, ids: list[str] | None, source: Path) -> list[int]:
    """Users or items of a flag, which gives numbers below n, or `ids` where there are any.

    Raises:
        ValueError: there is no such one, or no file of ids.
    """
    known = {word: number for number, word in enumerate(map(str, range(n)) if ids is None else ids) if word}
    if not known:
        raise ValueError(f"{source}: missing or without ids; leave out --own_ids and give numbers")
    asked = words if ids is None else tuple(map(encode_id, words))
    unknown = [word for word, name in zip(words, asked, strict=True) if name not in known]
    if unknown:
        what = f"numbers are 0 to {n - 1}, --own_ids takes ids" if ids is None else "no such id"
        raise ValueError(f"--{flag} {', '.join(unknown)}: not in {source}; {what}")
    return [known[name] for name in asked]


def requested_histories(settings: RecommendSettings, data: Interactions, catalogue: Catalogue) -> Iterator[History]:
    """What the settings ask for.

    Raises:
        ValueError: no such user or item, or nothing left to read.
    """
    own, folder = settings.own_ids, data.path.parent
    if settings.items:
        ids, source = (catalogue.ids, folder / ITEM_ID_FILE) if own else (None, data.path)
        yield History("items given", resolve_ids(settings.items, "items", data.n_items, ids, source), None)
        return
    users = np.flatnonzero(data.n_kept >= (1 if settings.whole else 2))
    if settings.user:
        ids, source = (catalogue.user_ids, folder / USER_ID_FILE) if own else (None, data.path)
        asked = resolve_ids((settings.user,), "user", data.n_users, ids, source)
        if asked[0] not in users:
            raise ValueError(f"--user {settings.user}: one item, and none left when it is held out; try --whole")
        users = asked
    else:
        rng = np.random.default_rng(settings.seed)
        users = sorted(rng.choice(users, min(settings.users, len(users)), replace=False).tolist())
    for user in users:
        items = data.kept_items(user).tolist()
        title = f"user {user}" + (f" ({unquote(catalogue.user_ids[user])})" if catalogue.user_ids[user] else "")
        yield History(title, items, None) if settings.whole else History(title, items[:-1], items[-1])


@torch.no_grad()
def recommend(models: list[HeLLM], asked: History, newest: int, settings: RecommendSettings) -> Recommendation:
    """Rank all items after a history; of equal scores the lower item first.

    Args:
        models: that of the run and, if it has a graph adapter, the one without.
        newest: how many of the history's last items are read.
    """
    history = asked.items[-newest:]
    left_out = [] if settings.seen else sorted(set(asked.items) - {asked.held_out})
    scores, orders, ranks = [], [], []
    for model in models:
        row = model(torch.tensor([history], device=model.score.weight.device))[0].cpu()
        row[left_out] = -torch.inf
        scores.append(row)
        orders.append(row.argsort(descending=True, stable=True))
        ranks.append(orders[-1].argsort() + 1)
    k = min(settings.k, len(scores[0]) - len(left_out))

    def place(item: int | Tensor) -> RankedItem:
        rank, *without = (int(of_model[item]) for of_model in ranks)
        return RankedItem(int(item), float(scores[0][item]), rank, without[0] if without else None)

    best, others = ([place(item) for item in order[:k]] for order in (orders[0], orders[-1]))
    held_out = None if asked.held_out is None else place(asked.held_out)
    return Recommendation(asked.title, history, best, held_out, [p for p in others if p not in best])


def format_text(found: Recommendation, catalogue: Catalogue) -> str:
    """History and best items, a line each."""

    def label(item: int) -> str:
        return f"{item:>7}  " + "  ".join(filter(None, (unquote(catalogue.ids[item]), catalogue.titles[item])))

    without = "without" if found.best and found.best[0].without else ""
    lines = [f"history of {found.title}, oldest first:", *(f"{'':>23}{label(item)}" for item in found.history), ""]
    lines.append(f"rank    score  {without:>7}{'item':>8}")
    next_one = [] if found.held_out is None else [found.held_out]
    for place in dict.fromkeys(found.best + next_one + found.dropped):
        of_bare = place.without or ""
        row = f"{place.rank:>4}  {place.score:>7.3f}  {of_bare:>7} {label(place.item)}"
        if place == found.held_out:
            row += "  <- held out: what came next"
        lines.append(row + "  (among the best without the graph adapter)" * (place in found.dropped))
    return "\n".join(lines + ["", ABLATED_NOTE] * bool(without)) + "\n"


def run(settings: RecommendSettings) -> None:
    """Print the recommendations, or write the page.

    Raises:
        FileNotFoundError, ValueError: naming file or flag, and what to do.
    """
    ran, data, model = load_run(settings)
    catalogue, bare = read_catalogue(data), ablate_graph_vector(model)
    models = [model] if bare is None else [model, bare]
    asked = list(requested_histories(settings, data, catalogue))
    found = [recommend(models, one, ran.max_len - 1, settings) for one in asked]
    if not settings.html:
        print(format_text(found[0], catalogue), end="")
        return
    title, path = f"What {ran.target} recommends on {ran.dataset}", Path(settings.html)
    with atomic_write(path) as temporary:
        temporary.write_text(to_page(title, ABLATED_NOTE if bare else "", found, catalogue), encoding="utf-8")
    print(f"written: {path}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    program, what = "python -m utils.recommend", "Show what a run recommends."
    settings = parse_settings(RecommendSettings, argv, program, what, validate_settings)
    return run_program(run, settings)


if __name__ == "__main__":
    sys.exit(main())
