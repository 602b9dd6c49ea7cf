"""Runs that differ in their seed alone are reported with their mean."""

import numpy as np

from tests.report.test_report import LATER_DAY, write_run
from tests.support.html_page import Page
from utils.evaluation.metrics import ranking_metrics
from utils.report import report
from utils.report.runs import read_run
from utils.report.seeds import with_seed_means


def rows_of(folder, table):
    """Return the cells of the rows of a table in report.md, below the published ones."""
    assert report.main([str(folder)]) == 0
    text = (folder / "report.md").read_text().split(f"### {table}")[1].split("###")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and "published log" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_runs_of_several_seeds_have_a_row_of_their_mean_and_sample_deviation(tmp_path):
    rankings = []
    for number, seed in enumerate(({}, {"seed": 7}, {"seed": 8})):
        name = f"MMHCL/best-{seed.get('seed', 2024)}"
        rankings.append(write_run(tmp_path, "Small", name, number, {"lr": 0.01} | seed, later_day=LATER_DAY))
    write_run(tmp_path, "Small", "MMHCL/other", 9, {"lr": 0.02})
    rows = rows_of(tmp_path, "Test, the user's history removed")
    means = [row for row in rows if "mean of" in row[0]]
    assert len(rows) == 5
    assert [row[:3] for row in means] == [["MMHCL/best, mean of 3 seeds", "paper, lr 0.01", ""]]
    values = [ranking_metrics(ranking.seen_removed)["NDCG@10"] for ranking in rankings]
    assert means[0][4] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    start = rows.index(means[0])
    assert {row[0] for row in rows[start + 1 : start + 4]} == {"MMHCL/best-2024", "MMHCL/best-7", "MMHCL/best-8"}
    (by_day,) = [row for row in rows_of(tmp_path, "Test by whether the target") if "mean of" in row[0]]
    later = [ranking_metrics(ranking.seen_kept[LATER_DAY])["NDCG@10"] for ranking in rankings]
    assert by_day[3] == f"{np.mean(later):.4f} ± {np.std(later, ddof=1):.4f}"


def test_runs_of_one_seed_or_of_other_settings_data_or_folder_have_no_mean(tmp_path):
    settings = {"MMHCL/a": {}, "MMHCL/b": {}, "MMHCL/c": {"seed": 3, "lr": 0.01}, "LightGCN/a": {"seed": 4}}
    for number, (name, values) in enumerate(settings.items()):
        write_run(tmp_path, "Small", name, number, values)
    unfinished = tmp_path / "Small" / "MMHCL" / "d_log.txt"
    unfinished.write_text('2026-01-01 00:00:00  non-default settings: {"seed": 5}\n')
    runs = [read_run(tmp_path / "Small" / name) for name in [*settings, "MMHCL/d"]]
    runs[3].final.files = {"Small.txt": "1"}
    found, kinds = with_seed_means(runs)
    assert found == runs
    assert set(kinds) == {""}
    runs[1].settings["seed"] = 6
    runs[1].final.files = {"Small.txt": "2"}
    assert with_seed_means(runs)[1] == kinds
    runs[1].final.files = None
    found, kinds = with_seed_means(runs)
    assert (found[1:3], kinds[:4]) == (runs[:2], ["mean", "seed", "seed", ""])
    assert found[0].name == "MMHCL/a, mean of 2 seeds"  # their names do not tell


def test_the_rows_of_seeds_and_of_own_runs_are_marked_in_the_page(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "Small", f"MMHCL/mine-{seed}", seed, {"seed": seed})
        write_run(tmp_path / "kept", "Small", f"MMHCL/mine_seed{seed}", seed, {"seed": seed})
    assert report.main([str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert html.count('<tr class="mean yours">') == html.count('<tr class="mean">') == 2
    assert html.count('<tr class="seed yours">') == html.count('<tr class="seed">') == 4
    cells = Page(html).texts
    assert ("td", "MMHCL/mine (yours), mean of 2 seeds") in cells
    assert ("td", "MMHCL/mine (kept), mean of 2 seeds") in cells
