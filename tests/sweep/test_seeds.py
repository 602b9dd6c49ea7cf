"""Runs of several seeds: which runs they are, and the mean and deviation of their results."""

import json
import statistics

import pytest

import train_HeLLM
from tests.support.small_data import short_command
from utils.sweep.command import parse_command
from utils.sweep.grid import grid_runs, seed_runs


def command(place, *more):
    """Return the arguments of a short run of one block."""
    return short_command(place, "--n_layers", "1", *more)


def log_folder(place):
    return place / "log" / "Small" / "MMHCL"


def final(place, target):
    return json.loads((log_folder(place) / f"{target}_metrics.jsonl").read_text().splitlines()[-1])


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def mean(values):
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def runs_of(*argv):
    given = parse_command([*argv])
    return seed_runs(grid_runs(given), given.seeds)


def test_there_is_a_run_per_seed_and_combination():
    runs = runs_of("--preset", "best", "--seeds", "3,1", "--lr", "0.5")
    assert [(run.title, run.settings.seed, run.settings.lr) for run in runs] == [("best-3", 3, 0.5), ("best-1", 1, 0.5)]
    assert {run.group for run in runs} == {"best"}
    assert all(run.settings.target == run.title and run.settings.resume for run in runs)
    runs = runs_of("--preset", "best", "--seeds", "3,1", "--sweep", "lr=0.1,0.2")
    assert [run.title for run in runs] == ["best-lr0.1-3", "best-lr0.1-1", "best-lr0.2-3", "best-lr0.2-1"]
    assert [run.group for run in runs] == ["best-lr0.1"] * 2 + ["best-lr0.2"] * 2


def test_runs_of_seeds_equal_runs_alone_and_their_mean_is_in_table_and_log(place, capsys):
    argv = command(place, "--seeds", "7,8,9")
    assert train_HeLLM.main(argv) == 0
    printed = capsys.readouterr().out
    tests = [final(place, f"tiny-{seed}")["test"] for seed in (7, 8, 9)]
    recall, ndcg = (mean([test[name] for test in tests]) for name in ("Recall@10", "NDCG@10"))
    lines = [cells(line) for line in (log_folder(place) / "tiny_seeds.md").read_text().splitlines()]
    assert [line[0] for line in lines[2:]] == [
        "tiny, mean ± standard deviation of 3 seeds",
        "tiny-7",
        "tiny-8",
        "tiny-9",
    ]
    assert lines[2][3:5] == [recall, ndcg]
    assert lines[4][4] == f"{tests[1]['NDCG@10']:.4f}"
    assert "Seeds:   tiny, 7, 8, 9: test, mean ± sample standard deviation\n" in printed
    assert "\ntiny, mean " in printed  # in the table: no name is cut
    line = f"         Recall@10 {recall}  NDCG@10 {ndcg}\n"
    assert line in printed
    log = log_folder(place) / "tiny-9_log.txt"
    assert log.read_text().count(line) == 1
    assert train_HeLLM.main(argv) == 0  # nothing is left to run
    assert capsys.readouterr().out.count("finished before") == 3
    assert log.read_text().count(line) == 1
    assert train_HeLLM.main(command(place, "--seed", "8", "--target", "alone")) == 0
    assert final(place, "alone")["test"] == tests[1]


def test_a_sweep_of_seeds_ranks_the_means(place):
    assert train_HeLLM.main(command(place, "--sweep", "lr=1e-3,1e-5", "--seeds", "7,8")) == 0
    lines = [cells(line) for line in (log_folder(place) / "tiny_sweep-lr-seeds.md").read_text().splitlines()][2:]
    assert len(lines) == 6
    groups = [line for line in lines if "±" in line[0]]
    assert sorted(line[0].split(",")[0] for line in groups) == ["tiny-lr1e-3", "tiny-lr1e-5"]
    assert float(groups[0][2].split()[0]) >= float(groups[1][2].split()[0])
    first = groups[0][0].split(",")[0]
    assert [line[0] for line in lines[1:3]] == [f"{first}-7", f"{first}-8"]
    tests = [final(place, f"{first}-{seed}")["test"]["Recall@10"] for seed in (7, 8)]
    assert groups[0][3] == mean(tests)


@pytest.mark.slow
def test_shards_divide_the_seeds_and_a_mean_waits_for_all(place):
    argv = command(place, "--seeds", "7,8")
    assert train_HeLLM.main([*argv, "--sweep_shard", "1/2"]) == 0
    text = (log_folder(place) / "tiny_seeds.md").read_text()
    assert "| tiny, 1 of 2 seeds | " in text
    assert "±" not in text
    assert "| tiny-8 (not finished) |" in text
    assert train_HeLLM.main([*argv, "--sweep_shard", "2/2"]) == 0
    assert "of 2 seeds | " in (log_folder(place) / "tiny_seeds.md").read_text()


@pytest.mark.slow
def test_the_members_of_a_committee_are_the_runs_of_the_seeds(place, capsys):
    argv = command(place, "--seeds", "7,8", "--committee")
    assert train_HeLLM.main(argv) == 0
    settings = final(place, "tiny-committee")["settings"]
    assert [name.rsplit("/", 1)[1] for name in settings["members"]] == ["tiny-7", "tiny-8"]
    assert settings["weights"] == [1.0, 1.0]
    capsys.readouterr()
    assert train_HeLLM.main(argv) == 0
    assert "tiny-committee: finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "7"), "--seeds: 7: two or more different seeds, such as 2024,2025,2026"),
        (("--seeds", "7,7"), "--seeds: 7,7: two or more different seeds"),
        (("--seeds", "7,x"), "--seeds: 7,x: two or more different seeds"),
        (("--seeds", "7,-1"), "--seeds: 7,-1: two or more different seeds"),
        (("--seeds", "1,2", "--sweep", "seed=3,4"), "--sweep seed: --seeds gives the seeds"),
        (("--seeds", "1,2", "--overwrite"), "--overwrite with --sweep or --seeds: "),
        (("--sweep", "lr=1,2", "--overwrite"), "--overwrite with --sweep or --seeds: "),
        (("--committee",), "--committee without --seeds: there is nothing to sum"),
        (("--committee", "--seeds", "1,2", "--sweep", "lr=1,2"), "--committee with --sweep or --sweep_shard: "),
    ],
)
def test_wrong_seeds_are_one_line(place, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train_HeLLM.main(command(place, *flags))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place / "log").exists()
