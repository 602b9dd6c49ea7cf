"""The demo category: raw files with something to learn in each of them."""

import numpy as np

from preprocess import amazon, features
from preprocess.demo_data import DATASET, N_ITEMS, N_TASTES, N_USERS, make_raw, make_sequences, taste_of_items
from utils.data.interactions import Interactions


def test_raw_files_give_back_what_was_made(tmp_path):
    make_raw(tmp_path)
    place = ["--dataset", DATASET, "--data_dir", str(tmp_path)]
    assert amazon.main(place) == 0
    assert features.main(["text", *place]) == 0
    assert features.main(["image", *place, "--encoder", "histogram"]) == 0
    folder = tmp_path / "sequential" / DATASET
    data = Interactions(folder / f"{DATASET}.txt", 0)
    assert (data.n_users, data.n_items) == (N_USERS, N_ITEMS)
    assert np.array_equal(data.items, np.concatenate(make_sequences()))
    taste = taste_of_items()
    for name in ("text", "image"):
        table = np.load(folder / f"{name}_feat.npy")
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        nearest = (unit @ unit.T - 2 * np.eye(N_ITEMS)).argmax(1)
        assert (taste[nearest] == taste).mean() > 10 / N_TASTES
    assert (folder / "image_missing.tsv").read_text() == "item_id\tasin\treason\n"


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        make_raw(tmp_path / name, seed)
    one, same, other = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "same", "other")
    )
    assert len(one) == N_ITEMS + 2
    assert one == same
    assert all(one[name] != other[name] for name in one)


def test_what_is_there_stays(tmp_path):
    make_raw(tmp_path)
    path = next((tmp_path / "sequential" / DATASET / "pictures").iterdir())
    path.write_bytes(b"mine")
    make_raw(tmp_path)
    assert path.read_bytes() == b"mine"
