"""The report of a log folder, and a comparison of two runs."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from config_HeLLM import PRESETS
from tests.support.html_page import Page
from tests.support.records import damaged
from utils.evaluation import metrics
from utils.evaluation.bootstrap import intervals
from utils.evaluation.metrics import HEADLINE_METRICS, Ranking, ranking_metrics
from utils.logs import curves, published
from utils.logs.published import KEPT
from utils.logs.records import EpochRecord, FinalRecord, read_metrics
from utils.logs.run_log import RunLog
from utils.report import compare, report, runs, tables
from utils.report.page import MetricValue
from utils.report.runs import read_run, run_file
from utils.report.tables import describe_settings, verdict


def write_run(folder, dataset, name, seed, settings=None, epochs=2, later_day=None, chosen_by=None):
    """Write a finished run with random ranks of 300 users; return them."""
    rng = np.random.default_rng(seed)
    kept = rng.geometric(0.03, 300)
    ranking = Ranking(kept, np.maximum(kept - rng.integers(0, 3, 300), 1), 50.0, later_day)
    values = ranking_metrics(ranking.seen_kept)
    records = [
        EpochRecord(epoch=n, train_loss=3.0 - n, lr=1e-3, seconds=90.0, samples_per_s=1000.0 * (n + 1), val=values)
        for n in range(epochs)
    ]
    tests = ranking.test_metrics() | {"popularity": values}
    final = FinalRecord(
        best_epoch=1,
        chosen_by=chosen_by,
        **tests,
        users=300,
        users_per_s=50.0,
        settings=settings,
        peak_memory_bytes=1_250_000_000,
    )
    parent, target = name.split("/")
    RunLog(folder / dataset / parent, target, f"HeLLM/{dataset}").write_final(records, final, ranking)
    return ranking


def metric_values(values, half=0.0):
    return {
        name: MetricValue(value, value - half, value + half)
        for name, value in zip(HEADLINE_METRICS, values, strict=True)
    }


def test_verdict_is_that_of_the_worst_metric():
    published = dict(zip(HEADLINE_METRICS, (0.10, 0.05, 0.20, 0.08), strict=True))
    assert verdict(metric_values((0.12, 0.06, 0.25, 0.10), 0.005), published) == "better by 20.0 % (Recall@10)"
    assert verdict(metric_values((0.12, 0.06, 0.25, 0.082), 0.005), published) == "reproduced"
    assert verdict(metric_values((0.12, 0.06, 0.25, 0.070), 0.005), published) == "short by 12.5 % (NDCG@20)"
    assert verdict(metric_values((0.098, 0.049, 0.199, 0.079), 0.005), published) == "reproduced"
    assert verdict(metric_values((0.10, 0.05, 0.20, 0.08)), published) == "reproduced"
    without = {name: MetricValue(value) for name, value in zip(HEADLINE_METRICS, (0.11, 0.06, 0.21, 0.09), strict=True)}
    assert verdict(without, published) == "better by 5.0 % (Recall@20, no interval)"


def test_markdown_has_metrics_intervals_and_costs_of_every_run(tmp_path):
    ranking = write_run(tmp_path, "Beauty", "MMHCL/mine", 0, {"lr": 0.01})
    write_run(tmp_path, "Small", "LightGCN/<other>", 1, {})
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    low, high = intervals(ranking.seen_removed)["NDCG@10"]
    value = ranking_metrics(ranking.seen_removed)["NDCG@10"]
    assert f"| {value:.4f} [{low:.4f}, {high:.4f}] |" in text
    (row,) = [line for line in text.splitlines() if "| MMHCL/mine |" in line and "better by" in line]
    assert "| paper, lr 0.01 | 1 |" in row
    assert row.endswith("| 3.0 | 1,500 | 1.25 |")
    assert "| published log, best epoch on test (7) |  |  | 0.0682 | 0.0354 | 0.1022 | 0.0439 |" in text
    assert "![Loss and metrics of mine_curves](Beauty/MMHCL/mine_curves.png)" in text
    assert "**Small**, LightGCN/<other>: no published log of this dataset" in text


def test_the_page_loads_nothing_and_runs_no_script(tmp_path):
    write_run(tmp_path, "Beauty", "MMHCL/mine", 0, {"prompt": "none", "target": "mine"})
    write_run(tmp_path, "Small", "LightGCN/<other>", 1, {})
    assert report.main([str(tmp_path)]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.fetched) == 3  # an icon, and the curves of both datasets
    assert all(address.startswith("data:") for address in page.fetched)
    cells = {("td", "MMHCL/mine"), ("td", "LightGCN/<other>"), ("td", "paper, prompt none")}
    assert cells <= set(page.texts)


def test_the_page_has_the_cells_of_the_markdown(tmp_path):
    write_run(tmp_path, "Beauty", "MMHCL/mine", 0, {"lr": 0.01})
    write_run(tmp_path, "Beauty", "baselines/item-kNN", 1, {"neighbours": 20})
    assert report.main([str(tmp_path)]) == 0
    rows = [row for row in (tmp_path / "report.md").read_text().splitlines() if row.startswith("| ")]
    in_markdown = [cell for row in rows if "---" not in row for cell in row[2:-2].split(" | ") if cell.strip()]
    texts = Page((tmp_path / "report.html").read_text()).texts
    in_page = [text.strip() for element, text in texts if element in ("th", "td", "small") and text.strip()]
    assert " ".join(in_page) == " ".join(in_markdown)


def test_the_nearest_preset_is_named(tmp_path):
    write_run(tmp_path, "Small", "MMHCL/a", 0, dict(PRESETS["best"], seed=7, graph_adapter=False, target="a"))
    write_run(tmp_path, "Small", "MMHCL/b", 0, {"lora_targets": ["w1", "w2", "w3"]})
    write_run(tmp_path, "Small", "MMHCL/c", 0, dict(PRESETS["best"], of_the_past=True))
    a, b, c = (describe_settings(read_run(tmp_path / "Small" / "MMHCL" / name)) for name in "abc")
    assert sorted(a.split(", ")) == ["best", "no graph_adapter", "seed 7"]
    assert b == "paper"
    assert c.startswith("paper, ")
    assert "of_the_past" in c
    assert "model_name tiny" in c


def test_runs_without_ranks_settings_or_test_are_reported(tmp_path):
    write_run(tmp_path, "Beauty", "MMHCL/old", 0)
    folder = tmp_path / "Beauty" / "MMHCL"
    (folder / "old_ranks.npz").unlink()
    line = '2026-01-01 00:00:00  settings beside the published ones: {"lr": 0.01, "w_lora": true, "target": "old"}\n'
    (folder / "old_log.txt").write_text(line)
    (folder / "new_log.txt").write_text(line)  # no epoch yet
    assert report.main([str(tmp_path)]) == 0
    rows = [row for row in (tmp_path / "report.md").read_text().splitlines() if row.startswith("| MMHCL/")]
    value = read_run(folder / "old").final.test["Recall@10"]
    assert rows[0].startswith(f"| MMHCL/old | paper, lr 0.01 | 1 | {value:.4f} |")
    assert "no interval" in rows[0]
    assert rows[1].startswith("| MMHCL/new | paper, lr 0.01 | 0 done, no test yet |  |")
    assert len(rows) == 3  # a run without a test is not in the second table


def test_kept_runs_are_reported_with_all_their_metrics(tmp_path, capsys):
    assert report.main([str(KEPT)]) == 2
    assert "log/kept is read-only, it holds the project's own runs; name another" in capsys.readouterr().err
    assert report.main([str(KEPT), "--output", str(tmp_path / "new" / "folder")]) == 0
    text = (tmp_path / "new" / "folder" / "report.md").read_text()
    assert (tmp_path / "new" / "folder" / "report.html").is_file()
    for path in KEPT.glob("*/*/*_metrics.jsonl"):
        name = f"{path.parent.name}/{path.name.removesuffix('_metrics.jsonl')}"
        assert f"| {name} |" in text
        tests = json.loads(path.read_text().splitlines()[-1])
        assert f"{tests['test']['NDCG@20']:.4f}" in text
    graphs = list(KEPT.glob("*/MMHCL*/pretrain_metrics.jsonl"))
    assert text.count("training items removed from the ranking") == len(graphs) >= 3
    assert "| published log, test |  |  | 0.0527 | 0.0269 | 0.0820 |" in text  # MMHCL on Beauty


def test_the_tracked_report_is_that_of_the_kept_runs(tmp_path):
    """`python -m utils.report log/kept --output log/kept` regenerates it."""
    assert report.main([str(KEPT), "--output", str(tmp_path)]) == 0
    made, tracked = ((folder / "report.md").read_text() for folder in (tmp_path, KEPT))
    assert made.replace(os.path.relpath(KEPT, tmp_path) + "/", "") == tracked


def test_runs_in_the_subfolder_kept_are_marked(tmp_path):
    write_run(tmp_path, "Small", "MMHCL/mine", 0)
    write_run(tmp_path / "kept", "Small", "MMHCL/mine", 1)
    (tmp_path / "kept" / "Small" / "stages_log.txt").write_text("a log of preprocess.tables is no run\n")
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# 2 runs on Small\n")
    assert text.count("| MMHCL/mine (yours) |") == text.count("| MMHCL/mine (kept) |") == 2


def test_a_comparison_shows_the_difference_with_its_interval(tmp_path, capsys):
    first = write_run(tmp_path, "Small", "MMHCL/a", 0)
    second = write_run(tmp_path, "Small", "MMHCL/b", 1)
    folder = tmp_path / "Small" / "MMHCL"
    assert report.main(["--compare", str(folder / "a"), str(folder / "b_metrics.jsonl")]) == 0
    printed = capsys.readouterr().out
    difference = ranking_metrics(second.seen_removed)["Recall@20"] - ranking_metrics(first.seen_removed)["Recall@20"]
    (row,) = [line for line in printed.split("seen removed")[1].splitlines() if line.startswith("| Recall@20 |")]
    assert f"| {difference:+.4f} [" in row
    assert not (tmp_path / "report.md").exists()


LATER_DAY = np.arange(300) % 3 > 0


def test_runs_that_know_days_are_reported_and_compared_by_day(tmp_path, capsys):
    rankings = [write_run(tmp_path, "Small", f"MMHCL/{name}", n, later_day=LATER_DAY) for n, name in enumerate("ab")]
    write_run(tmp_path, "Small", "MMHCL/without", 2)
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    tables = text.split("### Test by whether the target falls on a later day than the last item, ")[1:]
    assert [table.splitlines()[0] for table in tables] == [
        "all items ranked",
        "the user's history removed from the ranking",
    ]
    for table, ranks in zip(tables, (rankings[0].seen_kept, rankings[0].seen_removed), strict=True):
        (row,) = [line for line in table.splitlines() if line.startswith("| MMHCL/a |")]
        cells = row.split(" | ")
        for cell, users, metric in ((3, LATER_DAY, "NDCG@10"), (4, ~LATER_DAY, "Recall@10")):
            low, high = intervals(ranks[users])[metric]
            assert cells[cell] == f"{ranking_metrics(ranks[users])[metric]:.4f} [{low:.4f}, {high:.4f}]"
        assert "MMHCL/without" not in table
    folder = tmp_path / "Small" / "MMHCL"
    capsys.readouterr()
    assert report.main(["--compare", str(folder / "a"), str(folder / "b")]) == 0
    printed = capsys.readouterr().out
    first, second = (ranking_metrics(ranking.seen_removed[LATER_DAY])["NDCG@10"] for ranking in rankings)
    (row,) = [
        line
        for line in printed.split("later day, seen removed, 200 users")[1].split("same day")[0].splitlines()
        if line.startswith("| NDCG@10 |")
    ]
    assert f"| {first:.4f} | {second:.4f} | {second - first:+.4f} [" in row
    assert report.main(["--compare", str(folder / "a"), str(folder / "without")]) == 0
    assert "later day" not in capsys.readouterr().out


def test_the_metric_that_chose_the_epoch_is_named_unless_it_is_the_published_one(tmp_path):
    for n, criterion in enumerate(("val.NDCG@10", "val_unseen.NDCG@10")):
        write_run(tmp_path, "Small", f"MMHCL/{n}", n, chosen_by=criterion)
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| MMHCL/0 |  | 1 |" in text.replace("| paper |", "|  |")
    assert "| MMHCL/1 |  | 1, by val_unseen.NDCG@10 |" in text.replace("| paper |", "|  |")


def test_runs_to_compare_are_found_by_relative_names(tmp_path, capsys, monkeypatch):
    for seed, name in enumerate("ab"):
        write_run(tmp_path, "Small", f"MMHCL/{name}", seed)
    paths = [str(tmp_path / "Small" / "MMHCL" / name) for name in "ab"]
    assert report.main(["--compare", *paths]) == 0
    expected = capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "Small" / "MMHCL")
    assert report.main(["--compare", "a", "b_ranks.npz"]) == 0
    assert capsys.readouterr().out == expected
    assert report.main(["--compare", "a", "none"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {paths[0][:-1]}none: no such run; ")


def refused(capsys, *argv):
    """Run the program with arguments that it must refuse in one line; return the line."""
    assert report.main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_graph_pretraining_has_no_ranks_and_the_error_names_the_program_that_writes_them(tmp_path, capsys):
    for seed, name in enumerate(("MMHCL/a", "LightGCN/pretrain")):
        write_run(tmp_path, "Small", name, seed)
    a = tmp_path / "Small" / "MMHCL" / "a"
    graph = tmp_path / "Small" / "LightGCN" / "pretrain"
    run_file(graph, "ranks.npz").unlink()
    records = [json.loads(line) for line in run_file(graph, "metrics.jsonl").read_text().splitlines()]
    del records[-1]["test_unseen"], records[-1]["popularity"]
    run_file(graph, "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    error = refused(capsys, "--compare", a, graph)
    assert error.startswith(f"error: {graph}_ranks.npz: ")
    assert "python -m utils.baselines --dataset Small --GNNModel LightGCN" in error


def test_ranks_without_the_recorded_metrics_are_refused(tmp_path, capsys):
    for seed, name in enumerate("ab"):
        write_run(tmp_path, "Small", f"MMHCL/{name}", seed)
    a, b = (tmp_path / "Small" / "MMHCL" / name for name in "ab")
    path = run_file(b, "ranks.npz")
    right = dict(np.load(path))
    wrong = dict(np.load(run_file(a, "ranks.npz")))
    swapped = right | {"seen_kept": right["seen_removed"]}
    for ranks in (wrong, right | {"seen_removed": wrong["seen_removed"]}, swapped):
        np.savez(path, **ranks)
        for argv in ([tmp_path], ["--compare", a, b]):
            error = refused(capsys, *argv)
            assert error.startswith(f"error: {path}: not the ranks of the 300 users in the metrics beside it; ")
    np.savez(path, **right)
    assert report.main(["--compare", str(a), str(b)]) == 0
    capsys.readouterr()
    write_run(tmp_path, "Small", "MMHCL/b", 1, later_day=LATER_DAY)
    right = dict(np.load(path))
    without = {name: right[name] for name in ("seen_kept", "seen_removed")}
    for ranks in (without, right | {"later_day": ~LATER_DAY}, right | {"later_day": LATER_DAY.astype(int)}):
        np.savez(path, **ranks)
        assert f"error: {path}: not the ranks of the 300 users" in refused(capsys, "--compare", a, b)


def test_runs_of_a_version_without_one_of_the_headline_metrics_are_read(tmp_path, capsys, monkeypatch):
    for module in (metrics, curves, published, compare, runs, tables):
        monkeypatch.setattr(module, "HEADLINE_METRICS", (*HEADLINE_METRICS, "MRR@20"))
    for seed, name in enumerate(("old", "new")):
        write_run(tmp_path, "Beauty", f"MMHCL/{name}", seed)
    old, new = (tmp_path / "Beauty" / "MMHCL" / name for name in ("old", "new"))
    path = run_file(old, "metrics.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for key in record.keys() & {"val", "test", "test_unseen", "popularity"}:
            del record[key]["MRR@20"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    epochs, final = read_metrics(path)
    assert curves.plot_curves("old", epochs, final, published.published_log("HeLLM/Beauty"))
    assert "MRR" not in metrics.format_headline_metrics(final.test)
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if "| MMHCL/old |" in line and "better by" in line]
    assert "] |  | better by" in row
    assert report.main(["--compare", str(old), str(new)]) == 0
    assert "| MRR@20 |  | 0." in capsys.readouterr().out


def test_arrays_that_can_not_be_ranks_are_refused_before_they_are_read(tmp_path, capsys):
    ranking = write_run(tmp_path, "Small", "MMHCL/a", 0)
    path = run_file(tmp_path / "Small" / "MMHCL" / "a", "ranks.npz")
    kept, removed = ranking.seen_kept, ranking.seen_removed
    huge = np.broadcast_to(np.int64(1), (10**7,))  # 80 MB, compressed to 80 kB
    wrong_types = [kept.astype(str), kept.astype("M8[s]"), kept + 0j, kept + 0.0, kept > 3]
    for odd in (*wrong_types, kept - 400, kept[None], huge):
        for ranks in ({"seen_kept": odd, "seen_removed": removed}, {"seen_kept": kept, "seen_removed": odd}):
            np.savez_compressed(path, **ranks)
            tracemalloc.start()
            error = refused(capsys, tmp_path)
            assert tracemalloc.get_traced_memory()[1] < 5 * 10**7
            tracemalloc.stop()
            assert error.startswith(f"error: {path}: not the ranks of the 300 users")
    for ranks in ({"seen_kept": kept}, {"seen_kept": kept, "seen_removed": np.array([print])}):
        np.savez(path, **ranks)
        assert refused(capsys, tmp_path).startswith(f"error: {path}: ")
    np.savez(path, seen_kept=kept.astype(np.uint16), seen_removed=removed)
    assert report.main([str(tmp_path)]) == 0


def test_damaged_records_are_refused_by_line_or_reported(tmp_path, capsys):
    write_run(tmp_path, "Small", "MMHCL/a", 0, {"lr": 0.01, "lora_targets": ["w1"]})
    a = tmp_path / "Small" / "MMHCL" / "a"
    run_file(a, "ranks.npz").unlink()  # they would be compared with every record
    path = run_file(a, "metrics.jsonl")
    undamaged = [json.loads(line) for line in path.read_text().splitlines()]
    statuses = []
    for index in (0, len(undamaged) - 1):
        for record in damaged(undamaged[index]):
            records = [*undamaged[:index], record, *undamaged[index + 1 :]]
            path.write_text("".join(json.dumps(one) + "\n" for one in records))
            statuses.append(report.main([str(tmp_path)]))
            error = capsys.readouterr().err
            assert statuses[-1] in (0, 2)
            assert len(error) < 400
            if statuses[-1] == 2:
                assert error.startswith(f"error: {path}: line {index + 1}")
                assert error.count("\n") == 1
    assert statuses.count(2) > 100
    assert statuses.count(0) > 30


def test_errors_are_one_line_and_nothing_is_written(tmp_path, capsys):
    write_run(tmp_path, "Small", "MMHCL/a", 0)
    write_run(tmp_path, "Other", "MMHCL/a", 1)
    a, other = (tmp_path / dataset / "MMHCL" / "a" for dataset in ("Small", "Other"))
    assert "no run; " in refused(capsys, tmp_path / "empty")
    assert "is on Small, " in refused(capsys, "--compare", a, other)
    assert "none: no such run; " in refused(capsys, "--compare", a, a.with_name("none"))

    ranks_file = run_file(a, "ranks.npz")
    flipped = bytearray(ranks_file.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    np.savez(ranks_file, seen_kept=np.arange(5), seen_removed=np.arange(5))
    assert "not the ranks of the 300 users" in refused(capsys, tmp_path)
    for damage in (b"PK\x03\x04 cut", b"", b"text", flipped):
        ranks_file.write_bytes(damage)
        assert "a_ranks.npz: cut short or no file of ranks" in refused(capsys, tmp_path)
    ranks_file.unlink()

    log = run_file(a.with_name("begun"), "log.txt")
    for odd in ("{'lr': 1e-2}", '{"lr": ' + "[" * 10**5):
        log.write_text(f"2026-01-01 00:00:00  resumed\n2026-01-01 00:00:00  settings: {odd}\n")
        expected = f"error: {log}: line 2: settings that are no JSON object; remove "
        assert expected in refused(capsys, tmp_path)
    log.unlink()

    with run_file(a, "metrics.jsonl").open("a") as file:
        file.write("{\n")
    assert "a_metrics.jsonl: line 4 is no JSON object" in refused(capsys, tmp_path)
    assert not list(tmp_path.glob("report.*"))


@pytest.mark.parametrize("argv", [[], ["log", "--compare", "x", "y"]])
def test_a_folder_or_two_runs_are_needed(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: give a log folder, or --compare and two runs\n"
