"""Recommendations of all users in a file, and from Python."""

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import utils.recommend
from preprocess.raw.item_files import ITEM_TEXT_FILE, USER_ID_FILE
from tests.recommend.test_recommend import RUNS, ask, folder_of, found_of, place
from tests.support.small_data import N_ITEMS, N_USERS, sequences
from utils.ensemble import ensemble
from utils.recommend import recommend, recommender
from utils.recommend.recommender import best_items

__all__ = ["place"]  # a fixture
NOTEBOOK = Path(__file__).parents[2] / "docs" / "recommend.ipynb"


def loaded(place, target):
    return utils.recommend.load(str(folder_of(place, target)), str(place / "data"), device="cpu")


def export(place, target, path, *more):
    assert ask(place, target, "--all", "--out", path, *more) == 0
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user", "rank", "item", "title", "score"]
    return rows


@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("seen", [False, True])
def test_the_table_has_the_best_items_of_every_user_by_raw_ids(place, tmp_path, target, seen):
    rows = export(place, target, tmp_path / "all.csv", "--k", 5, *(["--seen"] if seen else []))
    found = found_of(place, target, html="x", users=N_USERS, k=5, whole=True, seen=seen)
    expected = [
        [f"a user{user}", str(p.rank), f"A{p.item}", f"group{p.item // 4} thing{p.item % 4} nice"]
        for user, one in enumerate(found)
        for p in one.best
    ]
    assert len(expected) == 5 * N_USERS
    assert [row[:4] for row in rows] == expected
    scores = [float(row[4]) for row in rows]
    np.testing.assert_allclose(scores, [p.score for one in found for p in one.best], rtol=1e-4, atol=1e-5)


def test_the_table_does_not_depend_on_the_size_of_its_blocks(place, tmp_path, monkeypatch):
    rows = export(place, "prefix", tmp_path / "one.csv", "--k", N_ITEMS)
    sizes = []
    recommend_all = recommender.Recommender.recommend_all

    def watched(self, k, seen):
        for block in recommend_all(self, k, seen):
            sizes.append(len(block.users))
            yield block

    monkeypatch.setattr(recommender.Recommender, "recommend_all", watched)
    monkeypatch.setattr(recommender, "MAX_BLOCK_ROWS", 7 * N_ITEMS)
    small = export(place, "prefix", tmp_path / "many.csv", "--k", 10**6)
    assert sizes == [7] * 17 + [1]
    assert [row[:3] for row in small] == [row[:3] for row in rows]
    n_unseen = sum(N_ITEMS - len(set(items)) for items in sequences())
    assert len(rows) == n_unseen  # nobody is recommended what they have seen


def test_a_committee_is_written_too(place, tmp_path):
    members = [str(folder_of(place, target)) for target in ("prefix", "causal")]
    flags = ["--data_dir", place / "data", "--output_dir", place / "output", "--logging_dir", place / "log"]
    assert ensemble.main([*members, "--out", "both", "--device", "cpu", "--overwrite", *map(str, flags)]) == 0
    rows = export(place, "both", tmp_path / "both.csv", "--k", 3)
    best = loaded(place, "both").recommend([f"A{item}" for item in sequences()[7]], k=3)
    of_user = [row for row in rows if row[0] == "a user7"]
    assert [(int(row[1]), row[2], row[3]) for row in of_user] == [tuple(found[:3]) for found in best]


def test_where_no_file_has_ids_they_are_the_numbers(place, tmp_path):
    folder = shutil.copytree(place / "data", tmp_path / "data") / "sequential" / "Small"
    for path in (*folder.glob("*_id_mapping.csv"), folder / ITEM_TEXT_FILE):
        path.unlink()
    rows = export(place, "prefix", tmp_path / "all.csv", "--data_dir", tmp_path / "data")
    assert [row[0] for row in rows] == [str(user) for user in range(N_USERS) for _ in range(10)]
    assert {row[2] for row in rows} <= set(map(str, range(N_ITEMS)))
    assert {row[3] for row in rows} == {""}


def test_titles_and_ids_that_csv_has_to_quote_are_read_back(place, tmp_path):
    folder = shutil.copytree(place / "data", tmp_path / "data") / "sequential" / "Small"
    text = (folder / ITEM_TEXT_FILE).read_text()
    (folder / ITEM_TEXT_FILE).write_text(text.replace("nice", 'a "b", ü'), encoding="utf-8")
    (folder / USER_ID_FILE).write_text((folder / USER_ID_FILE).read_text().replace("user7\n", "user%2C%227%0A\n"))
    rows = export(place, "prefix", tmp_path / "all.csv", "--data_dir", tmp_path / "data")
    assert all(row[3].endswith(' a "b", ü') for row in rows)
    assert [row[0] for row in rows if row[0].endswith("\n")] == ['a user,"7\n'] * 10


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_a_parquet_file_has_the_rows_of_the_csv_file(place, tmp_path):
    from pyarrow import parquet

    rows = export(place, "prefix", tmp_path / "all.csv", "--k", 3)
    assert ask(place, "prefix", "--all", "--k", 3, "--out", tmp_path / "all.parquet") == 0
    table = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [[row["user"], str(row["rank"]), row["item"], row["title"]] for row in table] == [row[:4] for row in rows]
    assert [f"{row['score']:.6g}" for row in table] == [row[4] for row in rows]


def test_a_table_that_breaks_off_leaves_the_old_file(place, tmp_path, monkeypatch, capsys):
    path = tmp_path / "all.csv"
    path.write_text("before\n")

    def interrupted(self, block):
        raise KeyboardInterrupt

    monkeypatch.setattr(recommender.Recommender, "rows", interrupted)
    assert ask(place, "prefix", "--all", "--out", path) == 130
    assert path.read_text() == "before\n"
    assert [found.name for found in tmp_path.iterdir()] == ["all.csv"]
    assert "SIGINT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--all"], "--all and --out FILE.csv belong together"),
        (["--user", "3", "--out", "x.csv"], "--all and --out FILE.csv belong together"),
        (["--all", "--user", "3", "--out", "x.csv"], "--user or --all, not both"),
        (["--all", "--out", "x.csv", "--html", "x.html"], "leave out --html"),
        (["--all", "--out", "x.xlsx"], "--out x.xlsx: a name ending in .csv or .parquet is expected"),
        (["--all", "--out", "none/x.csv"], "--out none/x.csv: no folder none"),
        (["--all", "--out", "."], "--out .: is a folder"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        recommend.main(["--run", "x", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_missing_package_is_named_before_the_run_is_read(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        recommend.main(["--run", "x", "--all", "--out", "x.parquet"])
    assert stop.value.code == 2
    assert "needs the package pyarrow; install it" in capsys.readouterr().err


def test_recommendations_from_python(place):
    model = loaded(place, "causal")
    (one,) = found_of(place, "causal", user="#7", whole=True, k=5)
    history = model.history("a user7")
    assert history == model.history(7) == model.history("#7") == [f"A{item}" for item in sequences()[7]]
    best = model.recommend(history, k=5)
    assert [(found.rank, found.item) for found in best] == [(p.rank, f"A{p.item}") for p in one.best]
    assert best[0].title == f"group{one.best[0].item // 4} thing{one.best[0].item % 4} nice"
    np.testing.assert_allclose([found.score for found in best], [p.score for p in one.best], rtol=1e-5)
    assert model.recommend(sequences()[7], k=5) == model.recommend(np.array(sequences()[7]), k=5) == best
    with_seen = model.recommend(history, k=N_ITEMS, seen=True)
    assert {found.item for found in with_seen} > set(history)
    assert len(with_seen) == N_ITEMS
    assert not {found.item for found in model.recommend(history, k=N_ITEMS)} & set(history)


@pytest.mark.parametrize(
    ("items", "k", "message"),
    [
        ([], 10, "a list of one or more items"),
        ("A1", 10, "a list of one or more items"),
        (["A1"], 0, "a k of 1 or more"),
        (["A1", "B", 40, -1], 10, "items B, 40, -1: not in .*i_id_mapping.csv"),
    ],
)
def test_what_can_not_be_recommended_after_is_refused(place, items, k, message):
    with pytest.raises(ValueError, match=message):
        loaded(place, "bare").recommend(items, k)


@pytest.mark.parametrize("k", [1, 3, 8, 20])
def test_of_equal_scores_the_lower_item_comes_first(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (50, 20), generator=generator).float()
    scores[::3] = torch.randn(17, 20, generator=generator)
    scores[::7, 4:9] = -torch.inf
    best, items = best_items(scores, k)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert items.equal(order)
    assert best.equal(scores.gather(1, order))


def test_the_notebook_runs_and_is_kept_with_its_outputs(place, tmp_path, monkeypatch, capsys):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    shutil.copytree(folder_of(place, "prefix"), tmp_path / "output" / "Demo" / "MMHCL" / "demo")
    shutil.copytree(place / "data", tmp_path / "datasets")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr("sys.path", list(sys.path))
    namespace = {}
    for cell in cells:
        exec("".join(cell["source"]), namespace)
        assert {output["output_type"] for output in cell["outputs"]} <= {"stream", "execute_result"}
    assert sum(bool(cell["outputs"]) for cell in cells) == len(cells) - 1  # the first prints nothing
    namespace["folder"].cleanup()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{N_USERS} users, {N_ITEMS} items\n")
    assert f"({N_USERS} users, {2 * N_USERS} recommendations)\nuser,rank,item,title,score\na user0,1,A" in printed
