"""Runs that have a name already: a new run of it is refused, and nothing of value is lost unasked."""

import json
import re
import shutil

import pytest

import train_HeLLM
from config_HeLLM import PRESETS, parse_args
from preprocess import own, pretrain_graph, pretrain_sasrec
from tests.support.bad_files import tree
from tests.support.small_data import command, write_dataset
from tests.training.test_states import pretrain_argv
from utils.ensemble import ensemble
from utils.io.kept import KEPT
from utils.training.run_files import BEST_ADAPTER, PREVIOUS_STATE, STATE

SMALL = ("--batch_size", "60", "--n_layers", "1")
DATE = r"\d{1,2} [A-Z][a-z]{2} 20\d\d"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Make a folder with a finished run."""
    place = tmp_path_factory.mktemp("done")
    write_dataset(place / "data")
    assert train_HeLLM.main(command(place, *SMALL)) == 0
    return place


@pytest.fixture
def place(done, tmp_path):
    """Copy that folder, so that it can be changed."""
    return shutil.copytree(done, tmp_path / "place")


def folder_of(place):
    return place / "output" / "Small" / "MMHCL" / "tiny"


def metrics_of(place, target="tiny"):
    return place / "log" / "Small" / "MMHCL" / f"{target}_metrics.jsonl"


def interrupt(place):
    """Turn the finished run into one that was stopped after its first epoch."""
    path = metrics_of(place)
    path.write_text(path.read_text().splitlines()[0] + "\n")


def refused(main, argv, place, capsys):
    """Return the one line with which a run is refused; assert that no file changes."""
    before = tree(place)
    capsys.readouterr()
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert tree(place) == before
    return captured.err


def test_a_finished_run_is_refused_and_replaced_or_kept_when_asked(place, capsys):
    score = json.loads(metrics_of(place).read_text().splitlines()[-1])["test"]["NDCG@10"]
    message = refused(train_HeLLM.main, command(place, *SMALL), place, capsys)
    found = f"error: finished run of {DATE}, test NDCG@10 {score:.4f} \\({re.escape(str(metrics_of(place)))}\\): "
    found = found.replace(" 0.", r" \.")
    assert re.fullmatch(f"{found}--resume shows it, --overwrite replaces it, --target NAME keeps both\n", message)
    before = metrics_of(place).read_bytes()
    assert train_HeLLM.main(command(place, *SMALL, "--target", "other")) == 0
    assert metrics_of(place).read_bytes() == before
    capsys.readouterr()
    assert train_HeLLM.main(command(place, *SMALL, "--seed", "7", "--overwrite")) == 0
    assert json.loads(metrics_of(place).read_text().splitlines()[-1])["settings"]["seed"] == 7
    assert re.search(f"replaces the finished run of {DATE}, test NDCG@10 ", capsys.readouterr().out)


@pytest.mark.parametrize("missing", [[], [STATE], [STATE, PREVIOUS_STATE], [BEST_ADAPTER, PREVIOUS_STATE]])
def test_an_interrupted_run_is_refused_as_long_as_one_of_its_files_is_left(place, missing, capsys):
    interrupt(place)
    for name in missing:
        (folder_of(place) / name).unlink()
    message = refused(train_HeLLM.main, command(place, *SMALL), place, capsys)
    resumes = "" if STATE in missing and PREVIOUS_STATE in missing else "--resume goes on, "
    found = rf"error: interrupted run of {DATE}, 1 epoch validated \({re.escape(str(folder_of(place)))}\): "
    assert re.fullmatch(f"{found}{resumes}--overwrite starts over, --target NAME keeps both\n", message)
    assert train_HeLLM.main(command(place, *SMALL, "--overwrite")) == 0


def test_a_run_that_left_neither_checkpoint_nor_test_starts_over(place):
    interrupt(place)
    shutil.rmtree(folder_of(place))
    assert train_HeLLM.main(command(place, *SMALL)) == 0


def test_a_log_that_can_not_be_read_is_refused(place, capsys):
    metrics_of(place).write_text("no record\n")
    message = refused(train_HeLLM.main, command(place, *SMALL), place, capsys)
    assert message.startswith(f"error: {metrics_of(place)}: line 1 is no JSON object")


@pytest.mark.parametrize("lost", ["states", "folder"])
def test_resume_without_a_checkpoint_does_not_remove_a_finished_run(place, lost, capsys):
    if lost == "folder":
        shutil.rmtree(folder_of(place))
    else:
        for name in (STATE, PREVIOUS_STATE):
            (folder_of(place) / name).unlink()
    before = {path: content for path, content in tree(place).items() if "held_by" not in str(path)}
    capsys.readouterr()
    assert train_HeLLM.main(command(place, *SMALL, "--resume")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: finished run of ")
    assert message.endswith(": --overwrite replaces it, --target NAME keeps both\n")
    assert before.items() <= tree(place).items()
    assert train_HeLLM.main(command(place, *SMALL, "--resume", "--overwrite")) == 0


def test_resume_of_a_finished_run_shows_its_test_without_another_one(place, capsys, monkeypatch):
    before = {
        path: content
        for path, content in tree(place).items()
        if not str(path).endswith(("_log.txt", ".png", "_settings.toml"))
    }
    log = metrics_of(place).with_name("tiny_log.txt")
    n_lines = len(log.read_text().splitlines())
    capsys.readouterr()
    monkeypatch.setattr(train_HeLLM.FineTuning, "evaluate", None)
    assert train_HeLLM.main(command(place, *SMALL, "--resume")) == 0
    score = json.loads(metrics_of(place).read_text().splitlines()[-1])["test"]["NDCG@10"]
    assert re.search(rf"test \(all items ranked\) .* {score:.4f} ", capsys.readouterr().out)
    assert before.items() <= tree(place).items()
    assert len(log.read_text().splitlines()) > n_lines


def test_resume_of_a_run_without_its_ranks_tests_it_again(place):
    ranks = metrics_of(place).with_name("tiny_ranks.npz")
    before = ranks.read_bytes()
    ranks.unlink()
    assert train_HeLLM.main(command(place, *SMALL, "--resume")) == 0
    assert ranks.read_bytes() == before


def test_a_committee_of_the_name_is_refused_even_to_overwrite(place, capsys):
    assert train_HeLLM.main(command(place, *SMALL, "--target", "two", "--seed", "7")) == 0
    members = [str(folder_of(place)), str(folder_of(place).with_name("two"))]
    folders = [f"--{name}={place / folder}" for name, folder in (("data_dir", "data"), ("logging_dir", "log"))]
    argv = [*members, "--out", "both", *folders, f"--output_dir={place / 'output'}", "--device", "cpu"]
    assert ensemble.main(argv) == 0
    for more in ((), ("--overwrite",), ("--resume",)):
        message = refused(train_HeLLM.main, command(place, *SMALL, "--target", "both", *more), place, capsys)
        assert f"{folder_of(place).with_name('both') / 'committee.json'}: a committee" in message
        assert "another --target" in message


def test_the_demo_replaces_its_own_run_and_no_other(place, monkeypatch, capsys):
    demo = ("--dataset", "Small", "--target", "demo")
    assert train_HeLLM.main(command(place, *SMALL, *demo)) == 0
    assert "finished run of " in refused(train_HeLLM.main, command(place, *SMALL, *demo), place, capsys)
    monkeypatch.setitem(PRESETS, "demo", PRESETS["demo"] | {"dataset": "Small"})  # as if it were the demo's dataset
    assert "finished run of " in refused(train_HeLLM.main, command(place, *SMALL), place, capsys)
    capsys.readouterr()
    assert train_HeLLM.main(command(place, *SMALL, *demo)) == 0
    assert "replaces the finished run of " in capsys.readouterr().out


@pytest.mark.parametrize("program", [pretrain_graph, pretrain_sasrec])
def test_a_pretraining_is_refused_though_its_tables_are_elsewhere(place, program, capsys):
    folder = write_dataset(place / "bare")
    for table in folder.glob("*.pt"):
        table.unlink()
    flags = ["--item_loss_ratio", "0"] if program is pretrain_graph else []
    argv = [word for word in pretrain_argv(place, *flags, "--num_epochs", "2") if word != "--overwrite"]
    argv[argv.index("--data_dir") + 1] = str(place / "bare")
    assert program.main(argv) == 0
    for table in folder.glob("*.pt"):
        table.unlink()
    before = {path: content for path, content in tree(place).items() if "held_by" not in str(path)}
    capsys.readouterr()
    assert program.main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: finished run of ")
    assert message.endswith(": --resume shows it, --overwrite replaces it, --target NAME keeps both\n")
    assert before.items() <= tree(place).items()
    assert program.main([*argv, "--overwrite"]) == 0


def test_nothing_is_written_into_the_kept_runs_by_other_flags_either(place, capsys):
    table = place / "table.csv"
    table.write_text("user,item,time\n" + "".join(f"u{n // 6},i{n % 6},{n}\n" for n in range(60)))
    before = tree(KEPT)
    for main, argv in (
        (train_HeLLM.main, command(place, *SMALL, "--target", "new", "--output_dir", str(KEPT))),
        (pretrain_sasrec.main, pretrain_argv(place, "--output_dir", str(KEPT))),
        (own.main, [str(table), "--dataset", "New", "--data_dir", str(KEPT)]),
    ):
        capsys.readouterr()
        assert main(argv) == 2
        assert "log/kept is read-only" in capsys.readouterr().err
        assert tree(KEPT) == before


def test_settings_know_the_flag():
    assert parse_args(["--overwrite"]).overwrite
    assert not parse_args(["--preset", "demo"]).overwrite
