"""The report of a log folder, and a comparison of two runs."""

import json
import shutil
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.support.records import damaged
from utils.evaluation.bootstrap import intervals
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.ranking import Ranking
from utils.logs.records import HEADLINE_METRICS, EpochRecord, FinalRecord
from utils.logs.run_log import RunLog
from utils.report import report
from utils.report.page import MetricValue
from utils.report.report import describe, verdict
from utils.report.runs import read_run, run_file

KEPT = Path(__file__).parents[2] / "log" / "kept"  # the project's own runs
VOID = {"meta", "link", "img"}  # elements without an end


class Page(HTMLParser):
    """Checks that elements end as they begin, and collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched, self.cells = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        assert tag != "script" and not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "li"):
            self.cells.append(data)


def write_run(folder, dataset, name, seed, settings=None, epochs=2):
    """A finished run with random ranks of 300 users; returns them."""
    rng = np.random.default_rng(seed)
    kept = rng.geometric(0.03, 300)
    ranking = Ranking(kept, np.maximum(kept - rng.integers(0, 3, 300), 1), 50.0)
    values = ranking_metrics(ranking.seen_kept)
    records = [
        EpochRecord(epoch=n, train_loss=3.0 - n, lr=1e-3, seconds=90.0, samples_per_s=1000.0 * (n + 1), val=values)
        for n in range(epochs)
    ]
    tests = {"test": values, "test_unseen": ranking_metrics(ranking.seen_removed), "popularity": values}
    last = FinalRecord(
        best_epoch=1, **tests, users=300, users_per_s=50.0, settings=settings, peak_memory_bytes=1_250_000_000
    )
    parent, target = name.split("/")
    RunLog(folder / dataset / parent, target, f"HeLLM/{dataset}").write_final(records, last, ranking)
    return ranking


def figures(values, half=0.0):
    return {
        name: MetricValue(value, value - half, value + half)
        for name, value in zip(HEADLINE_METRICS, values, strict=True)
    }


def test_verdict_is_that_of_the_worst_metric():
    published = dict(zip(HEADLINE_METRICS, (0.10, 0.05, 0.20, 0.08), strict=True))
    assert verdict(figures((0.12, 0.06, 0.25, 0.10), 0.005), published) == "better by 20.0 % (Recall@10)"
    assert verdict(figures((0.12, 0.06, 0.25, 0.082), 0.005), published) == "reproduced"
    assert verdict(figures((0.12, 0.06, 0.25, 0.070), 0.005), published) == "short by 12.5 % (NDCG@20)"
    assert verdict(figures((0.098, 0.049, 0.199, 0.079), 0.005), published) == "reproduced"
    assert verdict(figures((0.10, 0.05, 0.20, 0.08)), published) == "reproduced"
    without = {name: MetricValue(value) for name, value in zip(HEADLINE_METRICS, (0.11, 0.06, 0.21, 0.09), strict=True)}
    assert verdict(without, published) == "better by 5.0 % (Recall@20, no interval)"


def test_every_run_with_its_figures_and_intervals(tmp_path):
    ranking = write_run(tmp_path, "Beauty", "MMHCL/mine", 0, {"lr": 0.01})
    write_run(tmp_path, "Small", "LightGCN/<other>", 1, {})
    assert report.main([str(tmp_path)]) == 0
    text, low_high = (tmp_path / "report.md").read_text(), intervals(ranking.seen_removed)["NDCG@10"]
    value = ranking_metrics(ranking.seen_removed)["NDCG@10"]
    assert f"| {value:.4f} [{low_high[0]:.4f}, {low_high[1]:.4f}] |" in text
    (row,) = [line for line in text.splitlines() if "| MMHCL/mine |" in line and "better by" in line]
    assert "| paper, lr 0.01 | 1 |" in row and row.endswith("| 3.0 | 1,500 | 1.25 |")
    assert "| published log, best epoch on test (7) |  |  | 0.0682 | 0.0354 | 0.1022 | 0.0439 |" in text
    assert "![Loss and metrics of mine_curves](Beauty/MMHCL/mine_curves.png)" in text
    assert "**Small**, LightGCN/<other>: no published log of this dataset" in text


def test_the_page_needs_nothing_but_itself(tmp_path):
    write_run(tmp_path, "Beauty", "MMHCL/mine", 0, {"prompt": "none", "target": "mine"})
    write_run(tmp_path, "Small", "LightGCN/<other>", 1, {})
    assert report.main([str(tmp_path)]) == 0
    html, page = (tmp_path / "report.html").read_text(), Page()
    page.feed(html)
    assert page.open == [] and len(page.fetched) == 3
    assert all(place.startswith("data:") for place in page.fetched)
    assert "url(" not in html and "@import" not in html
    assert {"MMHCL/mine", "LightGCN/<other>", "paper, prompt none"} <= set(page.cells)


def test_the_nearest_preset_is_named(tmp_path):
    write_run(tmp_path, "Small", "MMHCL/a", 0, dict(report.PRESETS["best"], seed=7, graph_adapter=False, target="a"))
    write_run(tmp_path, "Small", "MMHCL/b", 0, {"lora_targets": ["w1", "w2", "w3"]})
    write_run(tmp_path, "Small", "MMHCL/c", 0, dict(report.PRESETS["best"], of_the_past=True))
    a, b, c = (describe(read_run(tmp_path / "Small" / "MMHCL" / name)) for name in "abc")
    assert sorted(a.split(", ")) == ["best", "no graph_adapter", "seed 7"]
    assert b == "paper"
    assert c.startswith("paper, ") and "of_the_past" in c and "model_name tiny" in c


def test_runs_without_ranks_settings_or_test(tmp_path):
    write_run(tmp_path, "Beauty", "MMHCL/old", 0)
    folder = tmp_path / "Beauty" / "MMHCL"
    (folder / "old_ranks.npz").unlink()
    line = '2026-01-01 00:00:00  settings beside the published ones: {"lr": 0.01, "w_lora": true, "target": "old"}\n'
    (folder / "old_log.txt").write_text(line)
    (folder / "new_log.txt").write_text(line)  # no epoch yet
    assert report.main([str(tmp_path)]) == 0
    rows = [row for row in (tmp_path / "report.md").read_text().splitlines() if row.startswith("| MMHCL/")]
    value = read_run(folder / "old").last.test["Recall@10"]
    assert rows[0].startswith(f"| MMHCL/old | paper, lr 0.01 | 1 | {value:.4f} |") and "no interval" in rows[0]
    assert rows[1].startswith("| MMHCL/new | paper, lr 0.01 | 0 done, no test yet |  |")
    assert len(rows) == 3  # without a test not in the second table


def test_the_kept_runs(tmp_path):
    kept = [KEPT / name for name in ("Beauty", "Sports_and_Outdoors", "Toys_and_Games")]
    for folder in kept:
        shutil.copytree(folder, tmp_path / "log" / folder.name)
    assert report.main([str(tmp_path / "log")]) == 0
    text = (tmp_path / "log" / "report.md").read_text()
    for path in (path for folder in kept for path in folder.glob("*/*_metrics.jsonl")):
        name = f"{path.parent.name}/{path.name.removesuffix('_metrics.jsonl')}"
        assert f"| {name} |" in text
        tests = json.loads(path.read_text().splitlines()[-1])
        assert f"{tests['test']['NDCG@20']:.4f}" in text
    graphs = [path for folder in kept for path in folder.glob("MMHCL*/pretrain_metrics.jsonl")]
    assert text.count("training items removed from the ranking") == len(graphs) >= 3
    assert "| published log, test |  |  | 0.0527 | 0.0269 | 0.0820 |" in text  # MMHCL on Beauty


def test_two_runs_in_detail(tmp_path, capsys):
    first = write_run(tmp_path, "Small", "MMHCL/a", 0)
    second = write_run(tmp_path, "Small", "MMHCL/b", 1)
    folder = tmp_path / "Small" / "MMHCL"
    assert report.main(["--compare", str(folder / "a"), str(folder / "b_metrics.jsonl")]) == 0
    shown = capsys.readouterr().out
    difference = ranking_metrics(second.seen_removed)["Recall@20"] - ranking_metrics(first.seen_removed)["Recall@20"]
    (row,) = [line for line in shown.split("seen removed")[1].splitlines() if line.startswith("| Recall@20 |")]
    assert f"| {difference:+.4f} [" in row
    assert not (tmp_path / "report.md").exists()


def test_runs_by_bare_names(tmp_path, capsys, monkeypatch):
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


def test_what_gives_a_graph_its_ranks(tmp_path, capsys):
    for seed, name in enumerate(("MMHCL/a", "LightGCN/pretrain")):
        write_run(tmp_path, "Small", name, seed)
    a, graph = tmp_path / "Small" / "MMHCL" / "a", tmp_path / "Small" / "LightGCN" / "pretrain"
    run_file(graph, "ranks.npz").unlink()
    records = [json.loads(line) for line in run_file(graph, "metrics.jsonl").read_text().splitlines()]
    del records[-1]["test_unseen"], records[-1]["popularity"]
    run_file(graph, "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert report.main(["--compare", str(a), str(graph)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {graph}_ranks.npz: ") and told.count("\n") == 1
    assert "python -m utils.baselines --dataset Small --GNNModel LightGCN" in told


def test_ranks_that_are_not_those_of_the_metrics(tmp_path, capsys):
    for seed, name in enumerate("ab"):
        write_run(tmp_path, "Small", f"MMHCL/{name}", seed)
    a, b = (tmp_path / "Small" / "MMHCL" / name for name in "ab")
    path = run_file(b, "ranks.npz")
    own = dict(np.load(path))
    shutil.copy(run_file(a, "ranks.npz"), path)
    others = dict(np.load(path))
    for ranks in (others, own | {"seen_removed": others["seen_removed"]}, own | {"seen_kept": own["seen_removed"]}):
        np.savez(path, **ranks)
        for argv in ([tmp_path], ["--compare", a, b]):
            assert report.main([str(argument) for argument in argv]) == 2
            captured = capsys.readouterr()
            assert captured.out == "" and captured.err.count("\n") == 1
            assert captured.err.startswith(f"error: {path}: not the ranks of the 300 users in the metrics beside it; ")
    np.savez(path, **own)
    assert report.main(["--compare", str(a), str(b)]) == 0


def test_ranks_are_read_only_if_they_can_be_such(tmp_path, capsys):
    ranking = write_run(tmp_path, "Small", "MMHCL/a", 0)
    path = run_file(tmp_path / "Small" / "MMHCL" / "a", "ranks.npz")
    kept, removed = ranking.seen_kept, ranking.seen_removed
    nothing = np.broadcast_to(np.int64(1), (10**7,))  # 80 MB, deflated to 80 kB
    for odd in (
        kept.astype(str),
        kept.astype("M8[s]"),
        kept + 0j,
        kept + 0.0,
        kept - 400,
        kept[None],
        kept > 3,
        nothing,
    ):
        for ranks in ({"seen_kept": odd, "seen_removed": removed}, {"seen_kept": kept, "seen_removed": odd}):
            np.savez_compressed(path, **ranks)
            tracemalloc.start()
            assert report.main([str(tmp_path)]) == 2
            assert tracemalloc.get_traced_memory()[1] < 5 * 10**7
            tracemalloc.stop()
            told = capsys.readouterr().err
            assert told.startswith(f"error: {path}: not the ranks of the 300 users") and told.count("\n") == 1
    for ranks in ({"seen_kept": kept}, {"seen_kept": kept, "seen_removed": np.array([print])}):
        np.savez(path, **ranks)
        assert report.main([str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {path}: ")
    np.savez(path, seen_kept=kept.astype(np.uint16), seen_removed=removed)
    assert report.main([str(tmp_path)]) == 0


def test_odd_records_are_told_by_line_or_do_no_harm(tmp_path, capsys):
    write_run(tmp_path, "Small", "MMHCL/a", 0, {"lr": 0.01, "lora_targets": ["w1"]})
    a = tmp_path / "Small" / "MMHCL" / "a"
    run_file(a, "ranks.npz").unlink()  # which would be compared with each
    path, ends = run_file(a, "metrics.jsonl"), []
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    for line in (0, len(whole) - 1):
        for record in damaged(whole[line]):
            records = [*whole[:line], record, *whole[line + 1 :]]
            path.write_text("".join(json.dumps(one) + "\n" for one in records))
            ends.append(report.main([str(tmp_path)]))
            told = capsys.readouterr().err
            if ends[-1]:
                assert told.startswith(f"error: {path}: line {line + 1}") and told.count("\n") == 1, told
            assert ends[-1] in (0, 2) and len(told) < 400
    assert ends.count(2) > 100 and ends.count(0) > 30


def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, capsys):
    write_run(tmp_path, "Small", "MMHCL/a", 0)
    write_run(tmp_path, "Other", "MMHCL/a", 1)
    a, other = tmp_path / "Small" / "MMHCL" / "a", tmp_path / "Other" / "MMHCL" / "a"

    def told(*argv):
        assert report.main([str(argument) for argument in argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err

    assert "no run; " in told(tmp_path / "empty")
    assert "is on Small, " in told("--compare", a, other)
    assert "none: no such run; " in told("--compare", a, a.with_name("none"))
    ranks_file = run_file(a, "ranks.npz")
    flipped = bytearray(ranks_file.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    np.savez(ranks_file, seen_kept=np.arange(5), seen_removed=np.arange(5))
    assert "not the ranks of the 300 users" in told(tmp_path)
    for damage in (b"PK\x03\x04 cut", b"", b"text", flipped):
        ranks_file.write_bytes(damage)
        assert "a_ranks.npz: cut short or no file of ranks" in told(tmp_path)
    ranks_file.unlink()
    log = run_file(a.with_name("begun"), "log.txt")
    for odd in ("{'lr': 1e-2}", '{"lr": ' + "[" * 10**5):
        log.write_text(f"2026-01-01 00:00:00  resumed\n2026-01-01 00:00:00  settings: {odd}\n")
        assert f"error: {log}: line 2: settings that are no JSON object; remove " in told(tmp_path)
    log.unlink()
    with run_file(a, "metrics.jsonl").open("a") as file:
        file.write("{\n")
    assert "a_metrics.jsonl: line 4 is no JSON object" in told(tmp_path)
    assert not list(tmp_path.glob("report.*"))
    for argv in ([], [str(tmp_path), "--compare", "x", "y"]):
        with pytest.raises(SystemExit) as stop:
            report.main(argv)
        assert stop.value.code == 2
        assert capsys.readouterr().err == "error: a log folder, or --compare and two runs\n"
