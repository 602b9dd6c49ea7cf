"""What programs print where there is no terminal: lines of at most 100 columns, and signs of life."""

import re
import shlex

import pytest

import train_HeLLM
from preprocess import pretrain_graph, tables
from tests.support.small_data import command, short_command, write_days, write_texts
from utils.cli.layout import LOG_WIDTH, SCREEN_WIDTH
from utils.training.pace import LineTimer

SILENT = ("--log_every_seconds", "1e6", "--target", "b")
ONE_LAYER = ("--n_layers", "1")
RELATIVE = ("--data_dir", "data", "--output_dir", "output", "--logging_dir", "log")  # paths as short as a user's


def widest(text):
    return max(map(len, text.splitlines()))


@pytest.fixture
def printed(place, capsys, monkeypatch):
    """Return a function that runs a program in the folder of the small dataset and returns what it prints."""
    monkeypatch.chdir(place)

    def run(main, argv):
        assert main(argv) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--choose_by", "val_unseen.NDCG@10", "--model_name", "tiny")])
def test_a_run_fits_the_screen_and_ends_with_results_and_the_next_command(place, printed, more):
    write_days(place / "data" / "sequential" / "Small")
    shown = printed(train_HeLLM.main, command(place, *ONE_LAYER, *RELATIVE, *more))
    assert widest(shown) <= LOG_WIDTH  # which leaves room for the time in the log
    lines = shown.splitlines()
    assert lines[0] == "settings: preset tiny, except"
    assert [line.split()[0] for line in lines if re.match(r" +\d/2 ", line)] == ["1/2", "2/2"]
    assert "Results: log/Small/MMHCL/tiny_log.txt" in lines
    last = re.sub(r" \\\n +", " ", shown).splitlines()[-1]
    assert last == "Next:    python -m utils.recommend --run output/Small/MMHCL/tiny --user '#0' --data_dir data"
    log = (place / "log" / "Small" / "MMHCL" / "tiny_log.txt").read_text()
    wide = [line for line in log.splitlines() if len(line) > SCREEN_WIDTH]
    assert all("non-default settings: {" in line for line in wide)


@pytest.mark.slow
def test_without_a_terminal_a_run_says_where_it_is(place, printed):
    shown = printed(train_HeLLM.main, short_command(place, *ONE_LAYER, *RELATIVE, "--log_every_seconds", "0"))
    lines = [line for line in shown.splitlines() if line.startswith("epoch 1/1, step ")]
    pattern = r"epoch 1/1, step 10/\d+, loss \d+\.\d{4}, [\d,]+ samples/s, left: epoch \d+ \w+.*, run \d+ \w+.*"
    assert re.fullmatch(pattern, lines[0])
    assert widest(shown) <= SCREEN_WIDTH
    shown = printed(train_HeLLM.main, short_command(place, *ONE_LAYER, *RELATIVE, *SILENT))
    assert "step " not in shown


def test_lines_of_progress_come_after_so_many_seconds(monkeypatch):
    now = 100.0
    monkeypatch.setattr("utils.training.pace.time.monotonic", lambda: now)
    timer = LineTimer(60)
    found = []
    for now in (130.0, 160.0, 161.0, 219.0, 221.0):  # noqa: B007 (the clock reads it)
        found.append(timer.is_due())
    assert found == [False, True, False, False, True]


@pytest.mark.slow
def test_a_sweep_of_four_runs_prints_less_than_forty_lines(place, printed):
    argv = short_command(place, *ONE_LAYER, *RELATIVE, "--sweep", "lr=1e-3,3e-3", "dropout=0,0.1")
    shown = printed(train_HeLLM.main, argv)
    assert len(shown.splitlines()) < 40
    assert widest(shown) <= SCREEN_WIDTH
    assert "tiny-lr1e-3-dropout0.1" in shown
    assert "1/1  " in (place / "log" / "Small" / "MMHCL" / "tiny-lr1e-3-dropout0.1_log.txt").read_text()


@pytest.mark.slow
def test_making_tables_fits_the_screen(place, printed):
    write_texts(place / "data" / "sequential" / "Small")
    for path in (place / "data" / "sequential" / "Small").glob("*.pt"):
        path.unlink()
    shown = printed(tables.main, ["--dataset", "Small", *RELATIVE, "--no-sentences"])
    assert widest(shown) <= SCREEN_WIDTH
    commands = [line for line in shown.replace(" \\\n", "").splitlines() if line.startswith("python -m preprocess.")]
    assert [shlex.split(line)[2] for line in commands] == [
        "preprocess.features",
        "preprocess.pretrain_graph",
        "preprocess.pretrain_sasrec",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("anchors", "is_told"), [("0", True), ("16", False)])
def test_a_graph_pretraining_over_all_nodes_on_a_cpu_says_how_long_and_what_is_faster(place, printed, anchors, is_told):
    sizes = ("--embed_dim", "4", "--batch_size", "64", "--num_epochs", "2", "--item_loss_ratio", "0")
    argv = ["--dataset", "Small", *RELATIVE, *sizes, "--overwrite", "--device", "cpu"]
    shown = printed(pretrain_graph.main, [*argv, "--contrastive_anchors", anchors])
    assert len(re.findall(r"an epoch takes about \d+ \w+.* on this CPU, 2 of them at most \d+ \w+", shown)) == is_told
    assert ("--contrastive_anchors 128" in shown) == is_told
    assert widest(shown) <= SCREEN_WIDTH
