"""Ways to damage any file, the programs that read it, and the error line that a program owes its user."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

import train_HeLLM
from preprocess import amazon, features, own, pretrain_graph, pretrain_sasrec
from tests.support.small_data import N_ITEMS, command, sequences, write_dataset, write_texts
from tests.support.small_encoders import write_pictures
from tests.support.small_raw import raw

# An error line says what to do, or what is expected instead.
REMEDY = re.compile(
    r"\b(download|regenerate|make|makes|take|takes|give|remove|correct|write|put|convert|copy|allow|save|number|use|add"
    r"|expected|comes|needed|lower|overwrite|is read|are read)\b"
)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 1])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(999))


ANY_FILE: dict[str, tuple[Callable[[Path], object], str]] = {  # name -> damage, pattern of the error line
    "missing": (Path.unlink, "missing|[Nn]o such|no base weights|without|neither|no text_feat or image_feat"),
    "empty": (
        lambda path: path.write_bytes(b""),
        "empty|cut short|no column|no review|no metadata|none of the|no text|not JSON|not a|no begin-of|line 1: '' ",
    ),
    "folder": (replace_by_folder, "folder"),
    "unreadable": (lambda path: path.chmod(0), "ermission denied"),
    "noise": (noise, "not a|not JSON|not UTF-8|cut short"),
    "cut": (cut, "cut short|damaged|not JSON|not a"),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder with its file's content, None for a folder or an unreadable file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
        for path in folder.rglob("*")
    }


def error_line(folder: Path, capsys, program: Callable[[list[str]], int], argv: list[str]) -> str:
    """Check that a program refuses its input in one line, with advice, and changes nothing; return the line.

    Advice may follow it in indented lines.
    """
    before = tree(folder)
    capsys.readouterr()
    assert program(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: "), line
    assert line.endswith("\n")
    assert all(advice.startswith("  ") for advice in line.splitlines()[1:]), line
    assert "\x1b" not in line
    assert len(line) < 1000
    assert REMEDY.search(line), line
    assert tree(folder) == before
    return line


def copy_template(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder, dirs_exist_ok=True)
    return folder


DATA = Path("data/sequential/Small")
RAW = Path("data/raw")
REVIEWS = "reviews_Small_5.json.gz"
META = "meta_Small.json.gz"
TXT = "Small.txt"
TABLE = "table.csv"  # a user's interactions
ITEMS = "items.csv"  # a user's items
GRAPH = "MMHCL_item_embeddings.pt"
SEQUENCE = "SASRec_item_embedding.pt"


def write_everything(root: Path) -> Path:
    """Write a file of every kind of data that a program reads below a folder."""
    folder = write_dataset(root / "data")
    write_texts(folder)
    rng = np.random.default_rng(0)
    np.save(folder / "image_feat.npy", rng.normal(size=(N_ITEMS, 5)))
    torch.save(torch.ones(N_ITEMS, 3), folder / "text_feat.pt")
    sp.save_npz(folder / "tags_feat.npz", sp.random(N_ITEMS, 9, 0.3, "csr", rng=rng))
    write_pictures(folder / "pictures", 3)
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n" + "".join(f"{i},A{i}\n" for i in range(N_ITEMS)))
    (folder / "item_image.tsv").write_text("item_id\tasin\turl\n" + "".join(f"{i}\tA{i}\tx\n" for i in range(N_ITEMS)))
    for release in (2014, 2018, 2023):
        raw(root / "data", release)
    lines = [f"u{user},A{item},{time}" for user, items in enumerate(sequences()) for time, item in enumerate(items)]
    (root / RAW / TABLE).write_text("\n".join(["user,item,time", *lines]) + "\n")
    items = [f"A{item},thing {item},../sequential/Small/pictures/A{item % 3}.png" for item in range(N_ITEMS)]
    (root / RAW / ITEMS).write_text("\n".join(["item,title,picture", *items]) + "\n")
    return root


def _argv(root: Path, *more: str) -> list[str]:
    return ["--dataset", "Small", "--data_dir", str(root / "data"), *more]


def _pretrain_argv(root: Path) -> list[str]:
    return _argv(root, "--output_dir", str(root / "output"), "--logging_dir", str(root / "log"), "--overwrite")


# Each function below returns a program and its arguments, for a folder with `data`.
def train(root):
    return train_HeLLM.main, command(root)


def plan(root):
    return train_HeLLM.main, command(root, "--plan")


def graph(root):
    return pretrain_graph.main, _pretrain_argv(root)


def sequence(root):
    return pretrain_sasrec.main, _pretrain_argv(root)


def text(root):
    return features.main, ["text", *_argv(root, "--name", "words")]


def image(root):
    return features.main, ["image", *_argv(root, "--name", "colours", "--encoder", "histogram")]


def fetch(root):
    return features.main, ["image", *_argv(root, "--name", "colours", "--encoder", "histogram", "--fetch")]


def _amazon(root: Path, reviews: str, meta: str):
    files = ("--reviews", str(root / RAW / reviews), "--meta", str(root / RAW / meta))
    return amazon.main, _argv(root, "--k_core", "2", "--overwrite", "--max_skipped", "0", *files)


def raw_2014(root):
    return _amazon(root, REVIEWS, META)


def raw_2018(root):
    return _amazon(root, "Small_5.json", "meta_Small.json")


def raw_2023(root):
    return _amazon(root, "Small.jsonl.gz", "meta_Small.jsonl.gz")


def table(root):
    files = (str(root / RAW / TABLE), "--item_file", str(root / RAW / ITEMS))
    return own.main, [*files, "--dataset", "Mine", "--data_dir", str(root / "data")]
