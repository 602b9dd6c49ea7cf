"""Distillation: runs that learn from the scores of finished runs."""

import shutil

import pytest
import torch
import torch.nn.functional as F

import train_HeLLM
from config_HeLLM import parse_args
from tests.support.bad_files import error_line
from tests.support.small_data import N_ITEMS, command, short_command, write_dataset
from utils.ensemble import ensemble
from utils.training.distillation import load_teacher
from utils.training.saved_run import load_model, read_run

CAUSAL = ("--objective", "causal", "--prompt", "none", "--n_layers", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs and their committee, one of whose members counts three times as much."""
    place = tmp_path_factory.mktemp("trained")
    write_dataset(place / "data")
    for name in ("first", "second"):
        flags = ("--item_ids", "--seed", "7") if name == "second" else ()
        assert train_HeLLM.main(command(place, *CAUSAL, "--num_epochs", "6", "--target", name, *flags)) == 0
    members = [str(run_of(place, name)) for name in ("first", "second")]
    flags = ["--data_dir", str(place / "data"), "--output_dir", str(place / "output")]
    flags += ["--logging_dir", str(place / "log"), "--weights", "1,3", "--out", "both"]
    assert ensemble.main([*members, *flags]) == 0
    return place


@pytest.fixture
def place(trained, tmp_path):
    """Copy the finished runs to where a test may change them."""
    return shutil.copytree(trained, tmp_path / "place")


def run_of(place, name):
    return place / "output" / "Small" / "MMHCL" / name


def settings_of(place, teacher, *flags):
    return parse_args(short_command(place, *CAUSAL, "--teacher", str(run_of(place, teacher)), *flags))


def test_a_committee_teaches_its_weighted_mean_score(place):
    settings = settings_of(place, "both", "--teacher_share", "0.3")
    teacher = load_teacher(settings, torch.device("cpu"))
    items = torch.randint(N_ITEMS, (5, 4), generator=torch.Generator().manual_seed(0))
    soft = teacher(items, None, items)
    assert soft.share == 0.3
    taught = (soft.hidden @ soft.weight.T).log_softmax(-1)[3::4]  # after all four items of each row
    members = []
    for name in ("first", "second"):
        _, model = load_model(read_run(run_of(place, name), settings.data_dir), torch.device("cpu"))
        with torch.no_grad():
            members.append(model(items).log_softmax(-1))
    expected = (0.25 * members[0] + 0.75 * members[1]).log_softmax(-1)
    torch.testing.assert_close(taught, expected, rtol=1e-4, atol=1e-4)


def test_only_real_positions_are_taught_on_either_side_of_padding(place):
    teacher = load_teacher(settings_of(place, "first"), torch.device("cpu"))
    history = torch.tensor([[3, 4, 5], [6, 7, 0]])
    right = torch.tensor([[True, True, True], [True, True, False]])
    padded = teacher(history, right, history)
    assert len(padded.hidden) == 5
    alone = teacher(history[1:, :2], None, history[1:, :2])
    torch.testing.assert_close(padded.hidden[3:], alone.hidden, rtol=1e-4, atol=1e-5)
    left = teacher(torch.tensor([[3, 4, 5], [0, 6, 7]]), right.flip(1), history)
    torch.testing.assert_close(left.hidden, padded.hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_negatives", ["0", "30"])
def test_a_student_learns_its_teachers_scores_rather_than_the_targets(place, n_negatives):
    settings = settings_of(place, "first", "--teacher_share", "0.9", "--n_negatives", n_negatives)
    run = train_HeLLM.setup_run(settings)
    items, targets = torch.randint(N_ITEMS, (2, 8, 4), generator=torch.Generator().manual_seed(0))
    soft = run.teacher(items, None, targets)
    taught = (soft.hidden @ soft.weight.T).log_softmax(-1)

    def distance():
        with torch.no_grad():
            hidden, weight, _ = run.model.target_scores(items, None, targets)
            scores = (hidden @ weight.T).log_softmax(-1)
        return F.kl_div(scores, taught, log_target=True, reduction="batchmean")

    before = distance()
    for _ in range(60):
        run.optimizer.zero_grad()
        run.model.loss(items, None, targets, teacher=run.teacher).backward()
        run.optimizer.step()
    assert distance() < 0.5 * before


def test_a_share_of_0_is_the_loss_without_a_teacher(place):
    teacher = load_teacher(settings_of(place, "both", "--teacher_share", "0"), torch.device("cpu"))
    model = teacher.models[0]
    items = torch.randint(N_ITEMS, (5, 4), generator=torch.Generator().manual_seed(0))
    taught = model.loss(items, None, items, teacher=teacher)
    torch.testing.assert_close(taught, model.loss(items, None, items))


def test_a_run_resumes_only_with_the_teacher_that_it_had(place, capsys):
    flags = (*CAUSAL, "--teacher", str(run_of(place, "first")), "--target", "student")
    assert train_HeLLM.main(short_command(place, *flags)) == 0
    assert train_HeLLM.main(short_command(place, *flags, "--resume")) == 0
    shutil.copy(run_of(place, "second") / "training_state.pt", run_of(place, "first") / "training_state.pt")
    shutil.copy(run_of(place, "second") / "best_adapter.pt", run_of(place, "first") / "best_adapter.pt")
    capsys.readouterr()
    assert train_HeLLM.main(short_command(place, *flags, "--resume")) == 2
    assert "CRC-32 of teacher 0 was " in capsys.readouterr().err


def test_a_student_can_be_rebuilt_without_its_teacher(place):
    flags = (*CAUSAL, "--teacher", str(run_of(place, "first")), "--target", "student")
    assert train_HeLLM.main(short_command(place, *flags)) == 0
    shutil.rmtree(run_of(place, "first"))
    _, model = load_model(read_run(run_of(place, "student"), str(place / "data")), torch.device("cpu"))
    assert not model.training


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--objective", "prefix"), "trained by --objective causal, but this run by --objective prefix"),
        (("--max_len", "60"), "trained with --max_len 50, but this run with --max_len 60"),
        (("--teacher", "nowhere"), "nowhere/best_adapter.pt: missing"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(place, capsys, flags, problem):
    teacher = ("--teacher", str(run_of(place, "first")), "--target", "student")
    line = error_line(place, capsys, train_HeLLM.main, short_command(place, *CAUSAL, *teacher, *flags))
    assert problem in line


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--max_memory", "1GiB"), "--max_memory does not count the memory of a --teacher"),
        (("--teacher_share", "1"), "teacher_share"),
    ],
)
def test_settings_that_a_teacher_forbids_are_refused(tmp_path, capsys, flags, problem):
    with pytest.raises(SystemExit, match="2"):
        parse_args(short_command(tmp_path, "--teacher", "somewhere", *flags))
    assert problem in capsys.readouterr().err
