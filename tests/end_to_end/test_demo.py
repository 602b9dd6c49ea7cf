"""The demo category: raw files with something to learn in each of them."""

import shutil

import numpy as np
import pytest
import scipy.sparse as sp

from preprocess import amazon, features
from preprocess.demo_data import DATASET, N_ITEMS, N_TASTES, N_USERS, make_raw, make_sequences, taste_of_items
from utils.data.interactions import Interactions


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return a data folder with the raw files of the demo category."""
    folder = tmp_path_factory.mktemp("demo")
    make_raw(folder)
    return folder


@pytest.fixture
def data_dir(raw, tmp_path):
    """Return a copy of it."""
    return shutil.copytree(raw, tmp_path / "data")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_preprocessing_recovers_sequences_and_tastes(data_dir):
    flags = ["--dataset", DATASET, "--data_dir", str(data_dir)]
    assert amazon.main(flags) == 0
    assert features.main(["text", *flags]) == 0
    assert features.main(["image", *flags, "--encoder", "histogram"]) == 0
    folder = data_dir / "sequential" / DATASET
    data = Interactions(folder / f"{DATASET}.txt", 0)
    assert (data.n_users, data.n_items) == (N_USERS, N_ITEMS)
    assert np.array_equal(data.items, np.concatenate(make_sequences()))
    taste = taste_of_items()
    for vectors in (sp.load_npz(folder / "text_feat.npz").toarray(), np.load(folder / "image_feat.npy")):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = (unit @ unit.T - 2 * np.eye(N_ITEMS)).argmax(1)
        assert (taste[nearest] == taste).mean() > 10 / N_TASTES
    assert (folder / "image_missing.tsv").read_text() == "item_id\tasin\treason\n"


def test_the_seed_determines_the_files(raw, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        make_raw(tmp_path / name, seed)
    files = contents(raw)
    other = contents(tmp_path / "other")
    assert len(files) == N_ITEMS + 2
    assert files == contents(tmp_path / "same")
    assert all(files[name] != other[name] for name in files)


def test_existing_files_are_kept(data_dir):
    picture = next((data_dir / "sequential" / DATASET / "pictures").iterdir())
    picture.write_bytes(b"mine")
    make_raw(data_dir)
    assert picture.read_bytes() == b"mine"
