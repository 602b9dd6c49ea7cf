"""Runs in a report that were made from other data files than the rest."""

import json

import pytest

from tests.report.test_report import write_run
from tests.support.html_page import Page
from utils.report import report
from utils.report.runs import run_file

FILES = {"CRC-32 of Small.txt": "aaaaaaaa", "CRC-32 of MMHCL_item_embeddings.pt": "bbbbbbbb"}


def write(folder, name, seed, files=None, settings=None):
    """Write a finished run that has read some files; return its test metrics."""
    write_run(folder, "Small", name, seed, {"seed": seed, "target": name.split("/")[1], **(settings or {})})
    path = run_file(folder / "Small" / name, "metrics.jsonl")
    *epochs, final = path.read_text().splitlines()
    final = json.loads(final) | {"files": FILES | (files or {})}
    path.write_text("\n".join([*epochs, json.dumps(final)]) + "\n")
    return final


def read_report(folder):
    assert report.main([str(folder)]) == 0
    return (folder / "report.md").read_text()


def table_rows(text, title):
    """Return the rows of the table below a title, as lists of cells."""
    lines = text.split(title)[1].split("###")[0].splitlines()
    return [line[2:-2].split(" | ") for line in lines if line.startswith("| ")][2:]


@pytest.fixture
def text(tmp_path):
    for seed in (1, 2, 3):
        write(tmp_path, f"MMHCL/mine-{seed}", seed, settings={"lr": 0.01})
    write(tmp_path, "MMHCL/other-lr", 4, settings={"lr": 0.02})
    write(tmp_path, "MMHCL/other-tables", 5, {"CRC-32 of MMHCL_item_embeddings.pt": "cccccccc"}, {"lr": 0.01})
    write_run(tmp_path, "Small", "MMHCL/old", 6, {"lr": 0.01})  # no files are recorded
    return tmp_path, read_report(tmp_path)


def test_runs_of_other_data_files_are_marked_by_the_file(text):
    folder, shown = text
    rows = {row[0]: row[1] for row in table_rows(shown, "### Test, all items ranked")}
    assert rows["MMHCL/other-tables"] == "paper, lr 0.01, seed 5; other MMHCL_item_embeddings.pt (cccccccc)"
    assert "other MMHCL" not in rows["MMHCL/mine-1"] + rows["MMHCL/other-lr"] + rows["MMHCL/old"]
    assert ("td", rows["MMHCL/other-tables"]) in Page((folder / "report.html").read_text()).texts


def test_of_equally_frequent_files_those_of_the_best_run_count(tmp_path):
    scores = {}
    for seed, checksum in ((1, "11111111"), (2, "22222222")):
        final = write(tmp_path, f"MMHCL/run-{seed}", seed, {"CRC-32 of Small.txt": checksum})
        scores[f"MMHCL/run-{seed}"] = final["test"]["NDCG@10"]  # as that of validation, in these runs
    rows = {row[0]: row[1] for row in table_rows(read_report(tmp_path), "### Test, all items ranked")}
    best, other = sorted(scores, key=scores.get, reverse=True)
    assert "other Small.txt (" not in rows[best]
    assert f"other Small.txt ({other[-1] * 8})" in rows[other]


def test_a_file_that_one_run_alone_has_read_is_no_mark(tmp_path):
    write(tmp_path, "MMHCL/a", 1)
    write(tmp_path, "MMHCL/b", 2, {"CRC-32 of text_feat.npy": "dddddddd"})
    assert "other " not in read_report(tmp_path)
