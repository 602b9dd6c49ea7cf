"""Small tables of purchases and items, converted by preprocess.own to the dataset X."""

from pathlib import Path

from preprocess import features, own

USERS = 6


def purchases(items, users=range(USERS), per_user=5):
    """Return a table in which each user buys successive items."""
    lines = [f"{user},{items[(row + n) % len(items)]},{n}" for row, user in enumerate(users) for n in range(per_user)]
    return "\n".join(["user,item,time", *lines]) + "\n"


def convert(root, text, *more):
    """Convert a table to the dataset X without a k-core; return the status."""
    (root / "table.csv").write_text(text, encoding="utf-8")
    flags = ["--dataset", "X", "--data_dir", str(root / "data"), "--k_core", "1", "--overwrite"]
    return own.main([str(root / "table.csv"), *flags, *more])


def dataset(root) -> Path:
    return root / "data" / "sequential" / "X"


def mapping(root, kind="i"):
    """Return the ids of a dataset in the order of their numbers."""
    return [line.split(",")[1] for line in (dataset(root) / f"{kind}_id_mapping.csv").read_text().splitlines()[1:]]


def join(root, items, interactions=None, *more, name="items.csv", encoding="utf-8"):
    """Convert interactions with items 1 to 12 and an item file; return the status."""
    (root / name).write_text(items, encoding=encoding)
    text = interactions or purchases([str(n) for n in range(1, 13)])
    return convert(root, text, "--item_file", str(root / name), *more)


def titles(root):
    """Return the title of each item that has a text."""
    rows = [line.split("\t") for line in (dataset(root) / "item_text.tsv").read_text().splitlines()[1:]]
    return {row[1]: row[2] for row in rows}


def table_of(ids, header="item,title"):
    return "\n".join([header, *(f"{item},Lamp {n}" for n, item in enumerate(ids, 1))]) + "\n"


def row(out, what):
    """Return a row of the table at the end of a program, with single spaces."""
    return next(" ".join(line.split()) for line in out.splitlines() if line.startswith(what))


def encode(root, *argv, name="X"):
    """Run preprocess.features on a dataset; return the status."""
    return features.main([*argv, "--dataset", name, "--data_dir", str(root / "data")])


def last_lines(capsys):
    """Return the standard output, whose lines fit a terminal, and whose last one is the next command."""
    out = capsys.readouterr().out
    assert max(map(len, (line for line in out.splitlines() if "/" not in line))) <= 100
    assert out.splitlines()[-1].startswith("next: python ")
    return out
