"""What goes wrong with any file, and what a program that refuses one owes its user."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import train_HeLLM
from preprocess import amazon, features, own, pretrain_graph, pretrain_sasrec
from tests.support.small_data import N_ITEMS, command, sequences, write_dataset, write_texts
from tests.support.small_encoders import write_pictures
from tests.support.small_raw import raw

# What is to be done about it: some word of advice, or what is expected instead.
REMEDY = re.compile(
    r"\b(fetch|make|makes|take|takes|give|remove|correct|write|put|convert|copy|allow|save|number|use|add|expected"
    r"|comes|needed|lower|overwrite|is read|are read)\b"
)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(999))


ANY_FILE: dict[str, tuple[Callable[[Path], object], str]] = {  # way to damage and what the message says, a pattern
    "missing": (Path.unlink, "missing|[Nn]o such|no base weights|without|neither|no text_feat or image_feat"),
    "empty": (
        lambda path: path.write_bytes(b""),
        "empty|cut short|no column|no review|none of the|no text|not JSON|not a|no begin-of|line 1: '' ",
    ),
    "folder": (replaced_by_folder, "folder"),
    "unreadable": (lambda path: path.chmod(0), "ermission denied"),
    "noise": (noise, "not a|not JSON|not UTF-8|cut short"),
    "cut": (cut, "cut short|damaged|not JSON|not a"),
}


def tree(place: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with what its file holds."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
        for path in place.rglob("*")
    }


def complaint(place: Path, capsys, program: Callable[[list[str]], int], argv: list[str]) -> str:
    """The one line with which a program refuses its input, advice in it, having touched nothing below `place`."""
    before = tree(place)
    capsys.readouterr()
    assert program(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1, line
    assert "\x1b" not in line and len(line) < 1000
    assert REMEDY.search(line), line
    assert tree(place) == before
    return line


def copied(template: Path, place: Path) -> Path:
    shutil.copytree(template, place, dirs_exist_ok=True)
    return place


DATA, RAW = Path("data/sequential/Small"), Path("data/raw")
REVIEWS, META, TXT = "reviews_Small_5.json.gz", "meta_Small.json.gz", "Small.txt"
TABLE, ITEMS = "table.csv", "items.csv"  # of one's own
GRAPH, SEQUENCE = "MMHCL_item_embeddings.pt", "SASRec_item_embedding.pt"


def write_everything(place: Path) -> Path:
    """Below a folder, a file of every kind of data that a program reads."""
    folder = write_dataset(place / "data")
    write_texts(folder)
    rng = np.random.default_rng(0)
    np.save(folder / "image_feat.npy", rng.normal(size=(N_ITEMS, 5)))
    torch.save(torch.ones(N_ITEMS, 3), folder / "text_feat.pt")
    write_pictures(folder / "pictures", 3)
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n" + "".join(f"{i},A{i}\n" for i in range(N_ITEMS)))
    (folder / "item_image.tsv").write_text("item_id\tasin\turl\n" + "".join(f"{i}\tA{i}\tx\n" for i in range(N_ITEMS)))
    for release in (2014, 2018, 2023):
        raw(place / "data", release)
    lines = [f"u{user},A{item},{time}" for user, items in enumerate(sequences()) for time, item in enumerate(items)]
    (place / RAW / TABLE).write_text("\n".join(["user,item,time", *lines]) + "\n")
    about = [f"A{item},thing {item},../sequential/Small/pictures/A{item % 3}.png" for item in range(N_ITEMS)]
    (place / RAW / ITEMS).write_text("\n".join(["item,title,picture", *about]) + "\n")
    return place


def _argv(place: Path, *more: str) -> list[str]:
    return ["--dataset", "Small", "--data_dir", str(place / "data"), *more]


def _fit(place: Path) -> list[str]:
    return _argv(place, "--output_dir", str(place / "output"), "--logging_dir", str(place / "log"), "--overwrite")


# What reads it: the folder with `data` to a program and its arguments.
def train(place):
    return train_HeLLM.main, command(place)


def plan(place):
    return train_HeLLM.main, command(place, "--plan")


def graph(place):
    return pretrain_graph.main, _fit(place)


def sequence(place):
    return pretrain_sasrec.main, _fit(place)


def text(place):
    return features.main, ["text", *_argv(place, "--name", "words")]


def image(place):
    return features.main, ["image", *_argv(place, "--name", "colours", "--encoder", "histogram")]


def fetch(place):
    return features.main, ["image", *_argv(place, "--name", "colours", "--encoder", "histogram", "--fetch")]


def _amazon(place: Path, reviews: str, meta: str):
    files = ("--reviews", str(place / RAW / reviews), "--meta", str(place / RAW / meta))
    return amazon.main, _argv(place, "--k_core", "2", "--overwrite", *files)


def raw_2014(place):
    return _amazon(place, REVIEWS, META)


def raw_2018(place):
    return _amazon(place, "Small_5.json", "meta_Small.json")


def table(place):
    files = (str(place / RAW / TABLE), "--item_file", str(place / RAW / ITEMS))
    return own.main, [*files, "--dataset", "Mine", "--data_dir", str(place / "data")]


def raw_2023(place):
    return _amazon(place, "Small.jsonl.gz", "meta_Small.jsonl.gz")
