"""The pre-training programs, end to end on a small dataset."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from llama.cross_entropy import linear_cross_entropy
from preprocess import pretrain_graph, pretrain_sasrec
from preprocess.pretraining.sasrec import SASRec
from preprocess.pretraining.sequence_settings import SequenceSettings
from tests.support.small_data import N_ITEMS, N_USERS, write_interactions
from utils.benchmark.ablation import ablation
from utils.data.interactions import Interactions
from utils.evaluation.ranking import rank_by_product
from utils.evaluation.target_ranks import target_ranks

ROOT = Path(__file__).parents[2]
PROGRAMS = {"graph": pretrain_graph, "sasrec": pretrain_sasrec}
FLAGS = {
    "graph": ["--embed_dim", "8", "--batch_size", "64", "--contrastive_anchors", "16", "--lr", "0.01", "--topk", "4"],
    "sasrec": ["--width", "8", "--hidden", "12", "--batch_size", "16", "--dropout", "0.1", "--lr", "0.01"],
}
NAMES = {"graph": "MMHCL", "sasrec": "SASRec"}
TABLES = {"graph": ["MMHCL_user_embeddings.pt", "MMHCL_item_embeddings.pt"], "sasrec": ["SASRec_item_embedding.pt"]}


@pytest.fixture
def place(tmp_path):
    folder = write_interactions(tmp_path / "data")
    features = np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32)
    np.save(folder / "image_feat.npy", features)
    return tmp_path


def data_folder(place):
    return place / "data" / "sequential" / "Small"


def command(place, which, *more):
    places = ["--output_dir", str(place / "output"), "--logging_dir", str(place / "log")]
    epochs = ["--num_epochs", "6", "--validate_every", "2"]
    return ["--dataset", "Small", "--data_dir", str(place / "data"), *places, *epochs, *FLAGS[which], *more]


def run(place, which, *more):
    return PROGRAMS[which].main(command(place, which, *more))


def tables(place, which):
    return [torch.load(data_folder(place) / name, weights_only=True) for name in TABLES[which]]


def records(place, which, target="pretrain"):
    path = place / "log" / "Small" / NAMES[which] / f"{target}_metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("real_curves")
@pytest.mark.parametrize("which", PROGRAMS)
def test_run_learns_and_writes_its_files(place, which):
    assert run(place, which, "--num_epochs", "20") == 0
    *epochs, last = records(place, which)
    assert [record["epoch"] for record in epochs] == list(range(1, 20, 2))[: len(epochs)]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert last["best_epoch"] in [record["epoch"] for record in epochs]
    assert last["test"]["Recall@10"] > 1.3 * 10 / N_ITEMS
    shapes = {"graph": [(N_USERS, 8), (N_ITEMS, 8)], "sasrec": [(N_ITEMS + 1, 8)]}
    assert [tuple(table.shape) for table in tables(place, which)] == shapes[which]
    assert (place / "log" / "Small" / NAMES[which] / "pretrain_curves.png").read_bytes().startswith(b"\x89PNG")


def test_written_embeddings_have_the_logged_metrics(place):
    """Ranking every test target by hand, without training items, gives the logged recall."""
    assert run(place, "graph") == 0
    users, items = tables(place, "graph")
    data = Interactions(data_folder(place) / "Small.txt", 0)
    hits = []
    for user in range(N_USERS):
        sequence = data.kept_items(user)
        scores = items @ users[user]
        better = scores > scores[sequence[-1]]
        better[sequence[:-2]] = False
        hits.append(int(better.sum()) < 10)
    assert records(place, "graph")[-1]["test"]["Recall@10"] == pytest.approx(np.mean(hits))


def test_sasrec_padding_row_is_zero_and_items_follow(place):
    assert run(place, "sasrec") == 0
    (table,) = tables(place, "sasrec")
    assert not table[0].any()
    assert table[1:].any(1).all()


@pytest.mark.parametrize("which", PROGRAMS)
def test_same_seed_gives_bit_identical_embeddings(place, which):
    assert run(place, which) == 0
    first = tables(place, which)
    assert run(place, which, "--overwrite") == 0
    assert all(torch.equal(a, b) for a, b in zip(first, tables(place, which), strict=True))
    assert run(place, which, "--overwrite", "--seed", "7") == 0
    assert not any(torch.equal(a, b) for a, b in zip(first, tables(place, which), strict=True))


def test_patience_stops_training_early(place):
    assert run(place, "sasrec", "--lr", "1e-9", "--num_epochs", "50", "--patience", "2") == 0
    *epochs, last = records(place, "sasrec")
    assert last["best_epoch"] == 1
    assert epochs[-1]["epoch"] == 5


def test_without_hypergraphs_no_features_are_needed(place):
    (data_folder(place) / "image_feat.npy").unlink()
    assert run(place, "graph", "--item_loss_ratio", "0") == 0
    assert run(place, "graph", "--GNNModel", "LightGCN") == 0
    assert (data_folder(place) / "LightGCN_item_embeddings.pt").is_file()


def test_user_without_training_items_is_kept(place):
    path = data_folder(place) / "Small.txt"
    path.write_text(path.read_text() + f"{N_USERS} 3 5\n")
    assert run(place, "graph") == 0
    users, _ = tables(place, "graph")
    assert len(users) == N_USERS + 1
    assert users.isfinite().all()


@pytest.mark.parametrize(
    ("which", "damage", "flags", "message"),
    [
        ("graph", lambda folder: None, ("--topk", "41"), "--topk 41: there are only 40 items"),
        ("graph", lambda folder: None, ("--features", "audio"), "no audio_feat.npy, .npz or .pt"),
        (
            "graph",
            lambda folder: (folder / "image_feat.npy").unlink(),
            (),
            "no text_feat or image_feat.npy, .npz or .pt",
        ),
        ("graph", lambda folder: torch.save(torch.ones(2), folder / TABLES["graph"][0]), (), "--overwrite replaces"),
        ("sasrec", lambda folder: torch.save(torch.ones(2), folder / TABLES["sasrec"][0]), (), "--overwrite replaces"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(place, which, damage, flags, message, capsys):
    damage(data_folder(place))
    assert run(place, which, *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (place / "output").exists()
    assert not (place / "log").exists()


@pytest.mark.parametrize(
    ("which", "flags", "message"),
    [
        ("graph", ("--tau", "0"), "--tau 0.0: above 0"),
        ("graph", ("--cf_model", "GAT"), "--cf_model: invalid choice: GAT (choose from LightGCN, NGCF, MF)"),
        ("graph", ("--preset", "Books"), "--preset: invalid choice: Books (choose from Beauty, "),
        ("sasrec", ("--hidden", "65"), "--hidden 65: a multiple of --n_heads 2"),
        ("sasrec", ("--max_len", "3"), "--max_len 3: from 4"),
        ("sasrec", ("--preset", "Beauty"), "unknown argument --preset"),
    ],
)
def test_invalid_settings_exit_with_status_2(place, which, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(place, which, *flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.replace("'", "")  # Python 3.12 quotes no choices


def test_published_settings_by_dataset():
    toys = pretrain_graph.parse_args(["--dataset", "Toys_and_Games", "--regs", "0.5"])
    assert (toys.User_layers, toys.tau, toys.regs) == (3, 0.3, 0.5)
    assert pretrain_graph.parse_args(["--dataset", "Other"]).topk == 10
    assert pretrain_graph.parse_args(["--dataset", "Other", "--preset", "Sports_and_Outdoors"]).topk == 5


def test_rank_by_product_ranks_with_and_without_seen_items():
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(5, 3, generator=generator), torch.randn(9, 3, generator=generator)
    seen = sp.csr_matrix(np.random.default_rng(0).random((5, 9)) < 0.4)
    who, targets = np.array([4, 0, 2]), np.array([1, 8, 5])
    scores = users @ items.T
    expected = [target_ranks(scores[who], torch.from_numpy(targets)).tolist()]
    for user, item in zip(who, targets, strict=True):
        scores[user, [i for i in seen[user].indices if i != item]] = -torch.inf
    expected.append(target_ranks(scores[who], torch.from_numpy(targets)).tolist())
    for block in (1, 2, 9):
        assert rank_by_product(users, items, seen, who, targets, block).tolist() == expected


def test_linear_cross_entropy_equals_torch(monkeypatch):
    monkeypatch.setattr("llama.cross_entropy.BLOCK_ELEMENTS", 40)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator) * 3 for n in (7, 13))
    targets = torch.tensor([0, 3, 3, 12, 5, 0, 1])
    for train_weight in (True, False):
        found = []
        for loss_of in (linear_cross_entropy, lambda h, w, t: F.cross_entropy(h @ w.T, t)):
            h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(train_weight)
            loss = loss_of(h, w, targets)
            (loss * 2).backward()
            found.append([loss, h.grad, w.grad])
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_sasrec_ignores_padding_and_the_future():
    torch.manual_seed(0)
    model = SASRec(20, SequenceSettings(width=6, hidden=8, max_len=12)).eval()
    histories = [[3], [4, 5, 6, 7], [1, 2]]
    items, mask = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bool)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
        mask[row, : len(history)] = True
    single = torch.cat([model(torch.tensor([history]), None) for history in histories])
    torch.testing.assert_close(model(items, mask), single)
    one, other = (model.hidden_states(torch.tensor([h]), None) for h in ([1, 2, 3, 4], [1, 2, 3, 9]))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_sasrec_loss_counts_real_positions_only():
    torch.manual_seed(0)
    model = SASRec(20, SequenceSettings(width=6, hidden=6, max_len=12)).eval()
    rows = [([1, 2, 3], [2, 3, 4]), ([7], [8])]
    items, targets = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)
    losses = []
    for row, (history, following) in enumerate(rows):
        items[row, : len(history)], targets[row, : len(history)] = torch.tensor(history), torch.tensor(following)
        hidden = model.hidden_states(torch.tensor([history]), None)[0]
        losses.append(F.cross_entropy(model.scores(hidden), torch.tensor(following), reduction="sum"))
    torch.testing.assert_close(
        model.loss(items, torch.tensor([[True] * 3, [True, False, False]]), targets), sum(losses) / 4
    )


def test_ablation_writes_table_and_plot(place, monkeypatch, capsys):
    monkeypatch.setattr("utils.benchmark.ablation.SEEDS", 2)
    where = ["--dataset", "Small", "--data_dir", str(place / "data"), "--output_dir", str(place / "output")]
    argv = [*where, "--logging_dir", str(place / "log"), *FLAGS["graph"], "--num_epochs", "2", "--validate_every", "1"]
    ablation(argv)
    folder = place / "log" / "Small" / "MMHCL"
    runs = json.loads((folder / "ablation.json").read_text())["runs"]
    assert len(runs) == 8
    shown = capsys.readouterr().out
    pair = [runs[f"without users', seed {seed}"]["Recall@20"] for seed in (2024, 2025)]
    assert "| without users' | " in shown
    assert f"{np.mean(pair):.4f} ± {np.std(pair, ddof=1):.4f}" in shown
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert not (place / "data" / "sequential" / "Small" / "MMHCL_item_embeddings.pt").exists()
    before = (folder / "ablation.json").stat().st_mtime_ns
    ablation([*argv, "--resume", "--save_every_minutes", "3"])  # nothing is run again
    assert (folder / "ablation.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_ablation_resumes_after_a_signal(place, monkeypatch, capsys):
    monkeypatch.setattr("utils.benchmark.ablation.SEEDS", 2)  # of the runs that go to the end

    def argv(name):
        places = [f"--{kind}_dir={place / name / kind}" for kind in ("output", "logging")]
        data = ["--dataset", "Small", "--data_dir", str(place / "data")]
        return [*places, *data, *FLAGS["graph"], "--num_epochs", "8", "--validate_every", "8", "--patience", "0"]

    def runs(name):
        return json.loads((place / name / "logging" / "Small" / "MMHCL" / "ablation.json").read_text())["runs"]

    ablation(argv("uninterrupted"))
    program = [sys.executable, "-m", "utils.benchmark", "ablation", *argv("interrupted"), "--save_every_minutes", "0"]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    states, epoch = place / "interrupted" / "output" / "Small" / "MMHCL", 0
    while process.poll() is None and not epoch:
        time.sleep(0.01)
        # the one before, which is replaced in one go
        known = (torch.load(s, weights_only=True)["progress"] for s in states.glob("*/*_before.pt"))
        epoch = max((progress["epoch"] for progress in known), default=0)
    process.terminate()
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "resume with --resume" in out.splitlines()[-1]
    assert "Traceback" not in err
    assert not (place / "interrupted" / "logging" / "Small" / "MMHCL" / "ablation.json").exists()
    capsys.readouterr()
    ablation(argv("interrupted"))
    first = capsys.readouterr().out.splitlines()[0]
    assert int(re.fullmatch(r"resumed at epoch (\d+), step \d+", first)[1]) > epoch > 0
    assert runs("interrupted") == runs("uninterrupted")
    assert not list(states.glob("*"))
