"""Baselines against brute force, on data of a few hundred lines."""

import json

import numpy as np
import pytest
import torch

from preprocess import pretrain_sasrec
from tests.support.bad_files import tree
from tests.support.records import epoch
from tests.support.small_data import N_ITEMS, N_USERS, write_dataset
from tests.training.test_states import flip, holding, refused_as_held, without
from utils.baselines import baselines
from utils.baselines.baselines import item_cosine_similarity, item_knn, keep_top_k
from utils.baselines.settings import BaselineSettings
from utils.data.interactions import Interactions
from utils.evaluation.metrics import ranking_metrics
from utils.evaluation.target_ranks import target_ranks
from utils.io.torch_files import save_with_checksum
from utils.training.run_files import STATE

MAX_LEN = 8  # shorter than some sequences


@pytest.fixture
def place(tmp_path):
    folder = write_dataset(tmp_path / "data")
    torch.save(torch.randn(N_USERS, 6, generator=torch.Generator().manual_seed(5)), folder / "MMHCL_user_embeddings.pt")
    return tmp_path


@pytest.fixture
def data(place):
    return Interactions(place / "data" / "sequential" / "Small" / "Small.txt", MAX_LEN)


def command(place, *more):
    places = ["--data_dir", place / "data", "--output_dir", place / "output", "--logging_dir", place / "log"]
    return ["--dataset", "Small", "--max_len", str(MAX_LEN), *map(str, places), *more]


def last_record(place, folder, name):
    path = place / "log" / "Small" / folder / f"{name}_metrics.jsonl"
    return json.loads(path.read_text().splitlines()[-1])


def full_history(data, user):
    return data.items[data.full_start[user] : data.start[user] + data.n_kept[user]]


def cosines_by_hand(data):
    bought = np.zeros((N_USERS, N_ITEMS))
    for user in range(N_USERS):
        bought[user, full_history(data, user)[:-2]] = 1
    norm = np.linalg.norm(bought, axis=0)
    result = bought.T @ bought / np.maximum(np.outer(norm, norm), 1e-9)
    np.fill_diagonal(result, 0)
    return result


def test_item_similarities_and_their_top_k_are_those_of_brute_force(data):
    assert (data.full_start < data.start).any()  # some users have more items than are read
    expected, found = cosines_by_hand(data), item_cosine_similarity(data)
    assert found.toarray() == pytest.approx(expected, abs=1e-6)
    few = keep_top_k(found, 3)
    for item, row in enumerate(expected):
        best = [other for other in sorted(range(N_ITEMS), key=lambda i, row=row: (-round(row[i], 9), i)) if row[other]]
        assert sorted(few[item].indices.tolist()) == sorted(best[:3])
    assert keep_top_k(found, N_ITEMS).nnz == np.count_nonzero(expected)


def test_item_knn_ranks_by_the_sum_of_similarities_to_the_history(data):
    similar = keep_top_k(item_cosine_similarity(data), 4).toarray()
    found = item_knn(BaselineSettings(neighbours=4), data)
    for split, last in ((found.test, 1), (found.validation, 2)):
        for user in range(N_USERS):
            sequence = data.kept_items(user)
            history, target = sequence[: len(sequence) - last], sequence[len(sequence) - last]
            scores = similar[history].sum(0)
            tied = np.isclose(scores, scores[target], atol=1e-6)
            better = (scores > scores[target]) & ~tied | tied & (np.arange(N_ITEMS) < target)
            assert split.seen_kept[user] == 1 + better.sum()
            better[np.setdiff1d(full_history(data, user)[:-last], target)] = False
            assert split.seen_removed[user] == 1 + better.sum()


def test_validation_chooses_the_number_of_neighbours(data):
    chosen = item_knn(BaselineSettings(), data)
    quality = {
        k: ranking_metrics(item_knn(BaselineSettings(neighbours=k), data).validation.seen_kept)["NDCG@10"]
        for k in baselines.K_CANDIDATES
    }
    assert quality[chosen.settings["neighbours"]] == max(quality.values())
    assert min(quality.values()) < max(quality.values())


def test_graph_embeddings_rank_by_product(place, data):
    assert baselines.main(command(place)) == 0
    folder = place / "data" / "sequential" / "Small"
    users, items = (torch.load(folder / f"MMHCL_{side}_embeddings.pt", weights_only=True) for side in ("user", "item"))
    scores = users @ items.T
    targets = torch.tensor([data.kept_items(user)[-1] for user in range(N_USERS)])
    expected = target_ranks(scores, targets).numpy()
    for user in range(N_USERS):
        seen = full_history(data, user)[:-1]
        scores[user, seen[seen != int(targets[user])]] = -torch.inf
    with np.load(place / "log" / "Small" / "baselines" / "MMHCL_ranks.npz") as found:
        assert np.array_equal(found["seen_kept"], expected)
        assert np.array_equal(found["seen_removed"], target_ranks(scores, targets).numpy())
    assert last_record(place, "baselines", "MMHCL")["test"] == ranking_metrics(expected)


def test_baselines_without_files_are_left_out(place, capsys):
    (place / "data" / "sequential" / "Small" / "MMHCL_user_embeddings.pt").unlink()
    assert baselines.main(command(place)) == 0
    printed = capsys.readouterr().out
    assert "left out: SASRec: " in printed
    assert "python -m preprocess.pretrain_sasrec makes both" in printed
    assert "left out: graph: " in printed
    assert "MMHCL_user_embeddings.pt" in printed
    header, *rows = printed[printed.index("test ") :].splitlines()[1:4]
    assert header.split() == ["Recall@10", "NDCG@10", "Recall@20", "NDCG@20"] * 2
    assert [row.split()[0] for row in rows] == ["popularity", "item-kNN"]
    assert all(len(row) <= 100 and len(row.split()) == 9 for row in rows)
    written = {path.name for path in (place / "log" / "Small" / "baselines").iterdir()}
    assert written == {"held_by.txt"} | {
        f"{name}_{kind}" for name in ("popularity", "item-kNN") for kind in ("metrics.jsonl", "ranks.npz")
    }


def without_items(path):
    weights = torch.load(path, weights_only=True)
    del weights["item_embedding.weight"]
    save_with_checksum(weights, path)


def assert_damaged_files_are_refused(place, capsys):
    """Damage each of SASRec's files; the error names it and nothing is written."""
    folder, before = place / "output" / "Small" / "SASRec" / "pretrain", tree(place)
    for name, damage, message in (
        (STATE, lambda path: flip(path, 700), "cut short or damaged"),
        ("best_model.pt", lambda path: flip(path, -1500), "cut short or damaged"),
        (STATE, without("settings"), "without settings; "),
        ("best_model.pt", without_items, "missing item_embedding.weight"),
    ):
        whole = (folder / name).read_bytes()
        damage(folder / name)
        capsys.readouterr()
        assert baselines.main(command(place)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder / name}: {message}")
        assert error.count("\n") == 1
        (folder / name).write_bytes(whole)
        assert tree(place) == before


def assert_other_data_are_refused(place, capsys):
    """Change the sequences: a SASRec trained on others may know what is held out of these."""
    path, before = place / "data" / "sequential" / "Small" / "Small.txt", tree(place)
    whole = path.read_text()
    first, rest = whole.split("\n", 1)
    *earlier, last_but_one, last = first.split(" ")
    path.write_text(" ".join([*earlier, last, last_but_one]) + "\n" + rest)
    assert baselines.main(command(place)) == 2
    error = capsys.readouterr().err
    assert "SASRec/pretrain was trained on: CRC-32 of Small.txt differs; " in error
    assert error.count("\n") == 1
    path.write_text(whole)
    assert tree(place) == before


def test_sasrec_has_the_metrics_of_its_own_test(place, capsys):
    sizes = ["--width", "8", "--hidden", "12", "--batch_size", "16", "--num_epochs", "2", "--validate_every", "1"]
    assert pretrain_sasrec.main(command(place, *sizes, "--overwrite")) == 0
    own = last_record(place, "SASRec", "pretrain")
    assert baselines.main(command(place)) == 0
    again = last_record(place, "baselines", "SASRec")
    assert again["test"] == own["test"]
    assert again["test_unseen"] == own["test_unseen"]
    with np.load(place / "log" / "Small" / "SASRec" / "pretrain_ranks.npz") as found:
        assert ranking_metrics(found["seen_removed"]) == own["test_unseen"]
    assert baselines.main([*command(place), "--max_len", "50"]) == 2
    assert "trained with --max_len 8" in capsys.readouterr().err
    assert_damaged_files_are_refused(place, capsys)
    assert_other_data_are_refused(place, capsys)
    (place / "output" / "Small" / "SASRec" / "pretrain" / "best_model.pt").unlink()
    assert baselines.main(command(place)) == 0
    row = f"SASRec, by its log {own['test']['Recall@10']:.4f} "
    assert row in " ".join(capsys.readouterr().out.split())


def test_a_second_process_is_refused(place, capsys):
    folder = place / "log" / "Small" / "baselines"
    with holding(folder) as holder:
        refused_as_held(baselines.main, command(place), folder, holder, place, capsys, "--logging_dir")
    assert baselines.main(command(place)) == 0
    assert (folder / "held_by.txt").read_text() == ""


def test_data_without_a_validation_target_are_refused(place, capsys):
    path = place / "data" / "sequential" / "Small" / "Small.txt"
    path.write_text("".join(f"{user} {user % N_ITEMS} {(user + 1) % N_ITEMS}\n" for user in range(N_USERS)))
    assert baselines.main(command(place)) == 2
    error = capsys.readouterr().err
    assert error == f"error: {path}: no user has the three items of a validation; take data with longer histories\n"
    assert not (place / "log").exists()


def test_a_sasrec_log_without_a_test_is_left_out(place, capsys):
    folder = place / "log" / "Small" / "SASRec"
    folder.mkdir(parents=True)
    for records in ([epoch(0)], [epoch(0), {"test": ranking_metrics(np.arange(1, 9)), "users": 8}]):
        (folder / "pretrain_metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        assert baselines.main(command(place)) == 0
        assert "by its log" not in capsys.readouterr().out


def test_errors_are_one_line_and_nothing_is_written(place, capsys):
    table = place / "data" / "sequential" / "Small" / "MMHCL_item_embeddings.pt"
    torch.save(torch.ones(N_ITEMS + 1, 6), table)
    assert baselines.main(command(place)) == 2
    assert f"error: {table}: 41 rows" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        baselines.main(command(place, "--neighbours", "-1"))
    assert stop.value.code == 2
    assert "--neighbours -1: 0 or above" in capsys.readouterr().err
    for number in (2, 10**20):
        with pytest.raises(SystemExit) as stop:
            baselines.main(command(place, f"--max_len={number}"))
        assert stop.value.code == 2
        assert f"--max_len {number}: from 3 (two targets and a history) to " in capsys.readouterr().err
    assert not (place / "log").exists()
