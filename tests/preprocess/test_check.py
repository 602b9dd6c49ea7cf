"""The report on a dataset's folder."""

import json
import os
import re

import numpy as np
import pytest
import torch

from preprocess import amazon, check, features
from tests.support.small_data import N_ITEMS, N_USERS, WIDTH, write_dataset, write_days
from tests.support.small_raw import raw


def report(root, capsys, *more):
    status = check.main(["--dataset", "Small", "--data_dir", str(root), *more])
    lines = {}
    for line in capsys.readouterr().out.splitlines()[1:-1]:
        name, details = line[11:].split(maxsplit=1)
        lines[name] = (line[:8].strip(), details)
    return status, lines


def test_complete_folder_is_ok(tmp_path, capsys):
    folder = write_dataset(tmp_path)
    np.save(folder / "audio_feat.npy", np.ones((N_ITEMS, 3)))
    status, lines = report(tmp_path, capsys)
    assert status == 0
    assert lines["MMHCL_item_embeddings.pt"] == ("ok", f"{N_ITEMS} x {WIDTH}")
    assert lines["audio_feat.npy"] == ("ok", f"{N_ITEMS} x 3")
    assert lines["MMHCL_user_embeddings.pt"] == ("missing", "python -m preprocess.pretrain_graph --dataset Small")
    assert lines["5-core"][0] == "missing"
    status, lines = report(tmp_path, capsys, "--GNNModel", "LightGCN")
    assert status == 1
    assert lines["LightGCN_item_embeddings.pt"][1].endswith("--dataset Small --GNNModel LightGCN")


def test_mismatched_files_are_reported_as_wrong(tmp_path, capsys):
    folder = write_dataset(tmp_path)
    torch.save(torch.ones(N_ITEMS, WIDTH), folder / "SASRec_item_embedding.pt")  # without the padding row
    np.save(folder / "text_feat.npy", np.ones((N_ITEMS - 1, 3)))
    (folder / "u_id_mapping.csv").write_text("user_id,reviewer_id\n1,x\n")
    status, lines = report(tmp_path, capsys)
    assert status == 1
    assert lines["SASRec_item_embedding.pt"][0] == lines["text_feat.npy"][0] == lines["u_id_mapping.csv"][0] == "wrong"
    assert f"{N_ITEMS} rows where {N_ITEMS + 1} belong" in lines["SASRec_item_embedding.pt"][1]
    assert f"{N_ITEMS - 1} rows for {N_ITEMS} items" in lines["text_feat.npy"][1]
    assert f"ids 0 to {N_USERS - 1} in order" in lines["u_id_mapping.csv"][1]


def test_converted_dataset_lacks_only_embeddings(tmp_path, capsys):
    raw(tmp_path)
    assert amazon.main(["--dataset", "Small", "--data_dir", str(tmp_path), "--k_core", "2"]) == 0
    capsys.readouterr()
    status, lines = report(tmp_path, capsys)
    assert status == 1
    image = lines["image_feat.npy"][1].removeprefix("python -m preprocess.features ").split()
    assert features.main([*image, "--data_dir", str(tmp_path)]) == 2
    assert "pictures" in capsys.readouterr().err  # there are none yet; the command is right
    assert {name for name, (state, _) in lines.items() if state == "ok"} == {
        *("Small.txt", "Small_days.txt", "item_text.tsv", "u_id_mapping.csv", "i_id_mapping.csv", "5-core")
    }
    path = tmp_path / "sequential" / "Small" / "5-core" / "train.json"
    train = json.loads(path.read_text())
    train["2"] = [1]
    path.write_text(json.dumps(train))
    _, lines = report(tmp_path, capsys)
    assert lines["5-core"][0] == "wrong"
    assert "user 2 differs from" in lines["5-core"][1]


def test_days_are_described_and_a_wrong_day_is_no_error_of_the_interactions(tmp_path, capsys):
    folder = write_dataset(tmp_path)
    status, lines = report(tmp_path, capsys)
    assert lines["Small_days.txt"][0] == "missing"
    assert lines["Small_days.txt"][1].startswith("optional; python -m preprocess.amazon --dataset Small")
    write_days(folder)
    status, lines = report(tmp_path, capsys)
    assert lines["Small_days.txt"][0] == "ok"
    assert re.fullmatch(r"(5|6)\d% of all items fall on the day of the one before", lines["Small_days.txt"][1])
    (folder / "Small_days.txt").write_text("0 1 2\n")
    status, lines = report(tmp_path, capsys)
    assert (status, lines["Small.txt"][0], lines["Small_days.txt"][0]) == (0, "ok", "wrong")
    assert "Small_days.txt: 1 users, but 120 in the interaction file" in lines["Small_days.txt"][1]


def test_sequences_sorted_by_id_are_reported(tmp_path, capsys):
    path = write_dataset(tmp_path) / "Small.txt"
    assert "order of time is lost" not in report(tmp_path, capsys)[1]["Small.txt"][1]
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(" ".join([user, *sorted(set(items), key=int)]) + "\n" for user, *items in lines))
    assert "order of time is lost" in report(tmp_path, capsys)[1]["Small.txt"][1]


@pytest.mark.parametrize("content", [None, "1 1 2\n"])
def test_other_files_are_not_checked_without_a_usable_interaction_file(tmp_path, content, capsys):
    folder = write_dataset(tmp_path)
    (folder / "Small.txt").unlink() if content is None else (folder / "Small.txt").write_text(content)
    status, lines = report(tmp_path, capsys)
    assert status == 1
    assert {name: state for name, (state, _) in lines.items()} == {
        "Small.txt": "missing" if content is None else "wrong"
    }


def test_fine_tuning_cannot_start_without_a_training_user(tmp_path, capsys):
    """Three items per user are one too few; the other files are checked nevertheless."""
    folder = write_dataset(tmp_path)
    users = [f"{user} {' '.join(str((user + n) % N_ITEMS) for n in range(3))}\n" for user in range(N_USERS)]
    (folder / "Small.txt").write_text("".join(users))
    status, lines = report(tmp_path, capsys)
    assert status == 1
    assert lines["MMHCL_item_embeddings.pt"][0] == "ok"
    assert lines["Small.txt"][0] == "wrong"
    assert "no user has the four items to train on" in lines["Small.txt"][1]
    (folder / "Small.txt").write_text("".join([*users[:-1], users[-1].replace("\n", " 0\n")]))
    assert report(tmp_path, capsys)[0] == 0


@pytest.mark.parametrize("name", ["item_text.tsv", "audio_feat.npy", "5-core/val.json", "Small.txt"])
def test_pipes_are_refused_without_reading_them(tmp_path, name, capsys):
    path = write_dataset(tmp_path) / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    status, lines = report(tmp_path, capsys)
    assert status == (name == "Small.txt")
    assert lines[name.split("/")[0]] == ("wrong", f"{path}: neither a file nor a folder; remove it")
