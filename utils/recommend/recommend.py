"""Show or write what a run recommends: to a user, after a history, or to all users.

    python -m utils.recommend --run output/Beauty/MMHCL/best --user A1YJEY40YUW4SE
    python -m utils.recommend --run output/Beauty/MMHCL/best --user '#42'
    python -m utils.recommend --run output/Beauty/MMHCL/best --items B00004TMFE,B0000530HU
    python -m utils.recommend --run output/Beauty/MMHCL/best --all --out recommendations.csv
    python -m utils.recommend --run output/Beauty/MMHCL/best --html page.html

Prints the best items and the history, writes the best items of all users to a table, or writes a page: of one user or
history, else of sampled users. Reads `best_adapter.pt` and the settings in `training_state.pt` of the run's folder, or
the `committee.json` of python -m utils.ensemble and these files of its members, the data files of fine-tuning and, if
they are there, `item_text.tsv`, the id maps and `pictures/`. A base that was initialised at random and not trained is
not saved: it is initialised again from the seed, which gives equal weights only on the same kind of device.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.cli.errors import run_program
from utils.cli.flags import parse_settings
from utils.cli.validation import check_numbers

TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class RecommendSettings:
    """Settings of the recommendations; one comment per field, shown by --help."""

    run: str = ""  # folder of a run or a committee: output/DATASET/GNNMODEL/TARGET
    data_dir: str = "datasets"  # holds sequential/DATASET/
    model_name: str = ""  # base weights, if they have moved since the run
    user: str = ""  # id of a user in the raw files, or '#42', our number; the last item is held out, and marked
    items: tuple[str, ...] = ()  # instead of a user: ids of a history's items, oldest first, comma-separated
    all: bool = False  # instead of a user: all of them, after their complete histories, into the file --out
    out: str = ""  # table of user, rank, item, title, score: FILE.csv, or FILE.parquet with the package pyarrow
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
    asked = [name for name in ("user", "items", "all") if getattr(settings, name)]
    if len(asked) > 1:
        problems.append(f"{' or '.join(f'--{name}' for name in asked)}, not {'both' if len(asked) == 2 else 'all'}")
    if not (asked or settings.html):
        problems.append("whose recommendations: --user, --items, --all, or --html for a page of sampled users")
    if settings.all != bool(settings.out):
        problems.append("--all and --out FILE.csv belong together")
    if settings.all and settings.html:
        problems.append("--all writes a table, not a page: leave out --html")
    for name in ("html", "out"):
        problems += _check_output(name, getattr(settings, name))
    suffix = Path(settings.out).suffix
    if settings.out and suffix not in TABLE_SUFFIXES:
        problems.append(f"--out {settings.out}: a name ending in {' or '.join(TABLE_SUFFIXES)} is expected")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        problems.append(f"--out {settings.out}: needs the package pyarrow; install it, or give a name ending in .csv")
    return problems


def _check_output(name: str, text: str) -> list[str]:
    """Return whether a file can't be written because of its path; "" is no file."""
    path = Path(text)
    if not text:
        return []
    if path.is_dir():
        return [f"--{name} {path}: is a folder; give the path of a file"]
    if not path.parent.is_dir():
        return [f"--{name} {path}: no folder {path.parent}; make it first"]
    return []


def run(settings: RecommendSettings) -> None:
    """Print the recommendations, or write the table or the page.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: a file or a flag is wrong; names it and what to do.
    """
    # Not at the top: they import torch, which takes seconds that --help and errors of the command line need not wait
    from utils.io.atomic import atomic_write
    from utils.recommend import load
    from utils.recommend.explain import ABLATED_NOTE, ablate_graph_vector, explain
    from utils.recommend.export import write_recommendations
    from utils.recommend.page import to_page
    from utils.recommend.requests import read_requests
    from utils.recommend.text import format_text

    recommender = load(settings.run, settings.data_dir, settings.model_name, settings.device)
    if settings.all:
        write_recommendations(Path(settings.out), recommender, settings.k, settings.seen)
        return
    requests = list(read_requests(settings, recommender.data, recommender.catalogue))
    ablated = ablate_graph_vector(recommender.model)
    models = [recommender.model] if ablated is None else [recommender.model, ablated]
    found = [explain(models, request, recommender.n_newest, settings.k, settings.seen) for request in requests]
    note = ABLATED_NOTE if ablated else ""
    if not settings.html:
        print(format_text(found[0], note, recommender.catalogue), end="")
        return
    title = f"What {Path(settings.run).resolve().name} recommends on {recommender.data.path.stem}"
    path = Path(settings.html)
    with atomic_write(path) as temporary:
        temporary.write_text(to_page(title, note, found, recommender.catalogue), encoding="utf-8")
    print(f"written: {path}")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    description = "Show or write what a run recommends."
    settings = parse_settings(RecommendSettings, argv, "python -m utils.recommend", description, validate_settings)
    return run_program(run, settings)


if __name__ == "__main__":
    sys.exit(main())
