"""Committees of finished runs on data of a few hundred lines."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import train_HeLLM
from tests.recommend.test_recommend import found_of
from tests.support.small_data import N_ITEMS, N_USERS, WIDTH, command, write_dataset
from utils.data.interactions import Interactions
from utils.ensemble import ensemble
from utils.ensemble.ensemble import candidate_weights
from utils.logs.records import read_metrics
from utils.logs.run_log import read_settings
from utils.recommend import load, recommend
from utils.report import report
from utils.report.runs import read_run as read_logged
from utils.report.tables import describe_settings
from utils.training.run_files import BEST_ADAPTER, COMMITTEE_FILE, STATE
from utils.training.saved_run import load_model, read_run

CAUSAL = ["--objective", "causal", "--prompt", "none", "--standardize", "--graph_mean", "--warm_head"]
RUNS = {  # GNNModel/target -> flags
    "MMHCL/prefix": [],
    "LightGCN/causal": [*CAUSAL, "--seed", "7", "--item_ids", "--eval_batch_size", "40"],
    "MMHCL/short": [*CAUSAL, "--max_len", "6"],  # less than most histories have
    "MMHCL/untrained": ["--lr", "1e-9", "--num_epochs", "1"],
}
PROTOCOLS = {"test": "seen_kept", "test_unseen": "seen_removed"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Write finished runs on two graph tables."""
    place = tmp_path_factory.mktemp("trained")
    folder = write_dataset(place / "data")
    generator = torch.Generator().manual_seed(1)
    torch.save(torch.randn(N_ITEMS, WIDTH, generator=generator), folder / "LightGCN_item_embeddings.pt")
    for name, flags in RUNS.items():
        model, target = name.split("/")
        argv = command(place, "--GNNModel", model, "--target", target, "--n_layers", "1", *flags)
        assert train_HeLLM.main(argv) == 0
    return place


@pytest.fixture
def place(trained, tmp_path):
    """Copy the finished runs to where a test may change them."""
    return shutil.copytree(trained, tmp_path / "place")


def folder_of(place, name):
    return place / "output" / "Small" / name


def argv_of(place, names, *more):
    folders = (str(folder_of(place, name)) for name in names)
    places = (("data_dir", "data"), ("output_dir", "output"), ("logging_dir", "log"))
    flags = [word for flag, name in places for word in (f"--{flag}", str(place / name))]
    return [*folders, *flags, "--device", "cpu", *more]


def committee(place, names, *more):
    assert ensemble.main(argv_of(place, names, *more)) == 0


def ranks_of(place, name):
    with np.load(place / "log" / "Small" / f"{name}_ranks.npz") as file:
        return dict(file)


def final_of(place, name):
    return read_metrics(place / "log" / "Small" / f"{name}_metrics.jsonl")[1]


def scores_by_hand(place, name, held_out):
    """Score every user's history alone, without padding: float64 (N_USERS, N_ITEMS), log-softmax."""
    run = read_run(folder_of(place, name), str(place / "data"))
    data, model = load_model(run, torch.device("cpu"))
    rows = []
    with torch.no_grad():
        for user in range(N_USERS):
            history = data.kept_items(user)[:-held_out][1 - run.settings.max_len :]
            logits = model(torch.from_numpy(history)[None])[0].double()
            rows.append(logits - torch.logsumexp(logits, 0))
    return torch.stack(rows).numpy()


def ranks_by_hand(place, scores, held_out):
    """Rank the held-out items by full sorting, among all items and among those not in the history."""
    data = Interactions(place / "data" / "sequential" / "Small" / "Small.txt", 0)
    ranks = {"seen_kept": [], "seen_removed": []}
    for user, row in enumerate(scores):
        *history, target = data.kept_items(user)[: len(data.kept_items(user)) - held_out + 1].tolist()
        unseen = row.copy()
        unseen[[item for item in history if item != target]] = -np.inf
        for name, values in (("seen_kept", row), ("seen_removed", unseen)):
            ranks[name].append(1 + np.argsort(-values, kind="stable").tolist().index(target))
    return ranks


@pytest.mark.parametrize("name", ["MMHCL/prefix", "LightGCN/causal", "MMHCL/short"])
def test_a_committee_of_one_is_its_member(place, name):
    committee(place, [name], "--out", "alone")
    model = name.split("/")[0]
    member, alone = ranks_of(place, name), ranks_of(place, f"{model}/alone")
    for protocol, key in PROTOCOLS.items():
        assert alone[key].tolist() == member[key].tolist()
        assert getattr(final_of(place, f"{model}/alone"), protocol) == getattr(final_of(place, name), protocol)
    epochs, final = read_metrics(place / "log" / "Small" / f"{name}_metrics.jsonl")
    (best,) = (record for record in epochs if record.epoch == final.best_epoch)
    assert final_of(place, f"{model}/alone").val == best.val
    assert final_of(place, f"{model}/alone").val_unseen == best.val_unseen
    assert final_of(place, f"{model}/alone").files == final.files


@pytest.mark.parametrize("weights", ["equal", "0.25,2,1"])
def test_scores_are_sums_of_log_softmax(place, weights):
    names = ["LightGCN/causal", "MMHCL/prefix", "MMHCL/short"]
    committee(place, names, "--out", "three", "--weights", weights)
    numbers = [1, 1, 1] if weights == "equal" else [0.25, 2, 1]
    by_hand = sum(w * scores_by_hand(place, name, 1) for w, name in zip(numbers, names, strict=True))
    expected = ranks_by_hand(place, by_hand, 1)
    assert {key: value.tolist() for key, value in ranks_of(place, "LightGCN/three").items()} == expected
    loaded = load(str(folder_of(place, "LightGCN/three")), str(place / "data"), device="cpu")
    data, model = loaded.data, loaded.model
    items = torch.from_numpy(np.concatenate([[0, 0], data.kept_items(3)[:-1]]))[None]
    mask = torch.arange(items.shape[1])[None] >= 2
    with torch.no_grad():
        np.testing.assert_allclose(model(items, mask)[0].numpy(), by_hand[3], rtol=0, atol=1e-4)
    final = final_of(place, "LightGCN/three")
    assert final.settings["weights"] == numbers
    assert len(final.files) == 4  # interactions, the sequence table and two graph tables


@pytest.mark.parametrize("choose_by", ["val.NDCG@10", "val_unseen.Recall@5"])
def test_validation_gives_the_weight_to_the_better_member(place, choose_by):
    names = ["MMHCL/untrained", "LightGCN/causal"]
    committee(place, names, "--out", "chosen", "--weights", "validation", "--choose_by", choose_by)
    final = final_of(place, "MMHCL/chosen")
    untrained, better = final.settings["weights"]
    assert better > untrained
    assert final.settings["weights_tried"] == 11
    assert final.settings["choose_by"] == choose_by
    # None of these others is better on validation
    for tenths in (0, 5, 8, 10):
        weights = f"{1 - tenths / 10},{tenths / 10}"
        committee(place, names, "--out", "given", "--weights", weights, "--overwrite")
        assert final_of(place, "MMHCL/given").score(choose_by) <= final.score(choose_by)


@pytest.mark.parametrize(("n_members", "n_tried"), [(1, 1), (2, 11), (3, 67), (4, 57), (5, 71), (6, 57), (30, 31)])
def test_weights_to_try(n_members, n_tried):
    candidates = candidate_weights(n_members)
    assert candidates[0] == (1.0,) * n_members
    assert len(set(candidates)) == len(candidates) == n_tried
    assert all(math.isclose(sum(weights), 1) for weights in candidates[1:])
    for member in range(n_members):
        assert any(weights[member] == 1 for weights in candidates)


def test_recommendations_of_a_committee_are_those_of_its_test_wherever_it_lies(place, tmp_path, capsys):
    committee(place, ["MMHCL/prefix", "LightGCN/causal"], "--out", "both", "--weights", "0.6,0.4")
    moved = (tmp_path / "moved").resolve()
    place.rename(moved)
    logged = ranks_of(moved, "MMHCL/both")
    for seen, key in ((True, "seen_kept"), (False, "seen_removed")):
        found = found_of(moved, "both", html="x", users=N_USERS, seen=seen)
        assert [one.held_out.rank for one in found] == logged[key].tolist()
        assert all(one.held_out.ablated_rank is None for one in found)
    argv = ["--run", str(folder_of(moved, "MMHCL/both")), "--data_dir", str(moved / "data"), "--device", "cpu"]
    capsys.readouterr()
    assert recommend.main([*argv, "--user", "3"]) == 0
    assert "<- held out" in capsys.readouterr().out
    assert recommend.main([*argv, "--html", str(tmp_path / "page.html")]) == 0
    assert "What both recommends on Small" in (tmp_path / "page.html").read_text()
    assert recommend.main([*argv, "--user", "3", "--model_name", "x"]) == 2
    assert "is a committee" in capsys.readouterr().err


def test_a_committee_is_reported_and_compared_as_a_run(place, capsys):
    committee(place, ["MMHCL/prefix", "LightGCN/causal"], "--out", "both")
    logs = place / "log" / "Small" / "MMHCL"
    title, settings = read_settings(logs / "both_log.txt")
    assert title == "settings"
    assert settings == final_of(place, "MMHCL/both").settings
    capsys.readouterr()
    assert report.main(["--compare", str(logs / "prefix"), str(logs / "both")]) == 0
    assert "| MMHCL/both |" in capsys.readouterr().out
    assert report.main([str(place / "log")]) == 0
    rows = [row for row in (place / "log" / "report.md").read_text().splitlines() if "| MMHCL/both |" in row]
    assert len(rows) == 2
    described = describe_settings(read_logged(logs / "both"))
    members = [str(folder_of(place, name)) for name in ("MMHCL/prefix", "LightGCN/causal")]
    assert described == f"committee, members {','.join(members)}, weights 1.0,1.0, weights_from equal"


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def remove(path):
    path.unlink()


def all_files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", [cut, remove])
@pytest.mark.parametrize("name", [BEST_ADAPTER, STATE])
def test_a_damaged_or_missing_member_is_named_and_nothing_is_written(place, capsys, damage, name):
    path = folder_of(place, "LightGCN/causal") / name
    damage(path)
    before = all_files(place)
    capsys.readouterr()
    assert ensemble.main(argv_of(place, ["MMHCL/prefix", "LightGCN/causal"], "--out", "both")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert all_files(place) == before
    assert not folder_of(place, "MMHCL/both").exists()


def test_wrong_use_is_one_line_and_nothing_is_written(place, capsys):
    committee(place, ["MMHCL/prefix"], "--out", "finished")
    other = write_dataset(place / "other")
    lines = (other / "Small.txt").read_text().splitlines()
    (other / "Small.txt").write_text("\n".join([lines[0] + " 5", *lines[1:]]) + "\n")
    flags = ["--data_dir", str(place / "other"), "--target", "other", "--num_epochs", "1", "--n_layers", "1"]
    assert train_HeLLM.main(command(place, *flags)) == 0
    before = all_files(place)
    prefix, causal = "MMHCL/prefix", "LightGCN/causal"
    for names, more, message in (
        ([prefix, "MMHCL/other"], ["--out", "x"], "MMHCL/other: trained on Small.txt (CRC-32 "),
        ([prefix, prefix], ["--out", "x"], "given twice"),
        ([prefix, "MMHCL/finished"], ["--out", "x"], f"finished/{BEST_ADAPTER}: missing"),
        ([prefix, causal], ["--out", "x", "--weights", "1"], "--weights 1: 1 for 2 members"),
        ([prefix, causal], ["--out", "finished"], f"{COMMITTEE_FILE}: exists already; --overwrite"),
        ([prefix, causal], ["--out", "short", "--overwrite"], f"{STATE}: a run of train_HeLLM.py has this name"),
        ([prefix, causal], ["--out", "x", "--data_dir", str(place / "none")], "no such folder"),
    ):
        capsys.readouterr()
        assert ensemble.main(argv_of(place, names, *more)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    for more in (
        ["--out", "x", "--weights", "1,-1"],
        ["--out", "x", "--weights", "0,0"],
        ["--out", "x", "--weights", "nan,1"],
        ["--out", "x", "--weights", "best"],
        ["--out", "x", "--choose_by", "test.NDCG@10"],
        ["--out", "a/b"],
        [],
    ):
        with pytest.raises(SystemExit) as stop:
            ensemble.main(argv_of(place, [prefix, causal], *more))
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert all_files(place) == before
    committee(place, [prefix, causal], "--out", "finished", "--overwrite")
    assert len(final_of(place, "MMHCL/finished").settings["members"]) == 2


def test_a_committee_whose_members_have_changed_is_refused(place, capsys):
    committee(place, ["MMHCL/prefix", "MMHCL/short"], "--out", "both")
    folder = folder_of(place, "MMHCL/both")
    path = folder / COMMITTEE_FILE
    written = json.loads(path.read_text())
    assert [Path(member["run"]) for member in written["members"]] == [Path("../prefix"), Path("../short")]

    def refused():
        capsys.readouterr()
        argv = ["--run", str(folder), "--data_dir", str(place / "data"), "--device", "cpu", "--user", "1"]
        assert recommend.main(argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    for damaged in (
        "",
        "[]",
        json.dumps(written | {"version": 2}),
        json.dumps(written | {"members": []}),
        json.dumps(written | {"members": [{"run": "../prefix"}]}),
        json.dumps(written | {"members": [written["members"][0] | {"weight": -1}]}),
        json.dumps(written | {"members": [written["members"][0] | {"weight": math.inf}]}),
    ):
        path.write_text(damaged)
        assert f"{path}: not a HeLLM committee of version 1, or damaged" in refused()
    path.write_text(json.dumps(written))
    argv = command(place, "--target", "short", "--n_layers", "1", *CAUSAL, "--max_len", "6", "--seed", "3")
    assert train_HeLLM.main([*argv, "--overwrite"]) == 0
    error = refused()
    assert "MMHCL/short: trained again since" in error
    assert "seed was 2024, is now 3" in error
    shutil.rmtree(folder_of(place, "MMHCL/short"))
    assert f"short/{BEST_ADAPTER}: missing" in refused()
