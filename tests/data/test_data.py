"""Interaction files, the split, batches, and the counts of the real data."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.small_data import N_ITEMS, sequences, write_dataset
from utils.data.batches import POSITIONS_PER_USER, collate, scoring_batches, training_batches
from utils.data.embeddings import load_graph_embeddings, load_sequence_embeddings
from utils.data.interactions import Interactions
from utils.data.layout import require_files, required_files
from utils.data.rows import _read_blocks, _read_by_line

REAL = Path(__file__).parents[3] / "shared" / "data" / "sequential"


def write(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode())
    return path


def history(data, samples, row):
    start, length = samples.start[row], samples.length[row]
    return data.items[start : start + length].tolist(), int(data.targets(samples)[row])


def seen(data, samples):
    """Return the items that each sample's user has seen, one list per sample."""
    row, item = data.seen_items(samples)
    return [item[row == number].tolist() for number in range(len(samples))]


def test_split_of_two_users(tmp_path):
    data = Interactions(write(tmp_path, "0 4 1 2 3 0\n1 2 4\n"), max_len=50)
    assert (data.n_users, data.n_items, data.n_interactions) == (2, 5, 7)
    train, validation, test = data.prefix_samples(), data.validation(), data.test()
    assert [history(data, train, row) for row in range(len(train))] == [([4], 1), ([4, 1], 2)]
    assert [history(data, validation, row) for row in range(len(validation))] == [([4, 1, 2], 3)]
    assert [history(data, test, row) for row in range(len(test))] == [([4, 1, 2, 3], 0), ([2], 4)]
    assert data.popularity().tolist() == [0, 1, 1, 0, 1]


def test_last_items_are_kept_before_the_split(tmp_path):
    data = Interactions(write(tmp_path, "0 " + " ".join(map(str, range(20))) + "\n"), max_len=6)
    assert history(data, data.test(), 0) == ([14, 15, 16, 17, 18], 19)
    assert len(data.prefix_samples()) == 3
    assert data.n_items == 20


def test_max_len_cuts_histories_but_not_training_interactions_and_seen_items(tmp_path):
    data = Interactions(write(tmp_path, "0 0 1 2 1 3 4 5 6\n1 2 4 3\n"), max_len=4)
    assert data.n_kept.tolist() == [4, 3]
    assert history(data, data.test(), 0) == ([3, 4, 5], 6)
    assert [history(data, data.prefix_samples(), row) for row in range(len(data.prefix_samples()))] == [([3], 4)]
    users, items = data.training_pairs()
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == [*((0, i) for i in (0, 1, 2, 1, 3, 4)), (1, 2)]
    assert data.popularity().tolist() == [1, 2, 2, 1, 1, 0, 0]
    assert data.kept_items(0).tolist() == [3, 4, 5, 6]
    assert seen(data, data.test()) == [[0, 1, 2, 1, 3, 4, 5], [2, 4]]
    assert data.n_seen(data.test()).tolist() == [7, 2]
    assert seen(data, data.validation())[0] == [0, 1, 2, 1, 3, 4]
    assert data.seen_items(data.test(), np.array([1, 0, 1])).tolist() == [
        [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2],
        [2, 4, 0, 1, 2, 1, 3, 4, 5, 2, 4],
    ]


@pytest.mark.parametrize(
    ("padding", "short", "real"),
    [("left", [0, 0, 0, 2], [False, False, False, True]), ("right", [2, 0, 0, 0], [True, False, False, False])],
)
def test_batch_is_padded_on_either_side(tmp_path, padding, short, real):
    data = Interactions(write(tmp_path, "0 4 1 2 3 0\n1 2 4\n"), max_len=50)
    items, mask, targets = collate(data, data.test(), np.array([1, 0]), padding)
    assert items.tolist() == [short, [4, 1, 2, 3]]
    assert mask.tolist() == [real, [True] * 4]
    assert targets.tolist() == [4, 0]
    assert collate(data, data.test(), np.array([0]), padding).mask is None


@pytest.mark.parametrize(("padding", "short"), [("left", ([0, 4], [0, 2])), ("right", ([4, 0], [2, 0]))])
def test_targets_of_all_positions_are_padded_like_items(tmp_path, padding, short):
    data = Interactions(write(tmp_path, "0 3 1 2 5 0\n1 4 2 1 3\n"), max_len=50)
    batch = collate(data, data.user_samples(), np.arange(2), padding)
    assert batch.items.tolist() == [[3, 1], short[0]]
    assert batch.targets.tolist() == [[1, 2], short[1]]


def test_training_batches_use_samples_once_repeat_by_seed_and_pad_little():
    length = np.random.default_rng(0).integers(1, 48, 1000)
    batches = training_batches(length, 7, seed=1, epoch=3)
    rows = np.concatenate(batches)
    assert len(batches) == 1000 // 7
    assert len(np.unique(rows)) == len(rows) == 142 * 7
    same, other = training_batches(length, 7, 1, 3), training_batches(length, 7, 1, 4)
    assert np.array_equal(rows, np.concatenate(same))
    assert not np.array_equal(rows, np.concatenate(other))
    padding = sum(length[b].max() * len(b) for b in batches) / length[rows].sum()
    shuffled = np.random.default_rng(0).permutation(length)[: 142 * 7].reshape(-1, 7)
    assert padding < 1.1 < (shuffled.max(1) * 7).sum() / shuffled.sum()
    assert len(training_batches(length[:3], 7, 1, 0)) == 1


def test_scoring_batches_have_every_sample_once_longest_first():
    length = np.array([3, 9, 1, 7, 9])
    batches = list(scoring_batches(length, 2, positions_per_row=0))
    assert [b.tolist() for b in batches] == [[1, 4], [3, 0], [2]]


def test_scoring_batches_of_long_histories_have_fewer_samples():
    length = np.array([2, 40, 6, 3, 7, 1, 7])
    batches = list(scoring_batches(length, 3, positions_per_row=5))
    assert [b.tolist() for b in batches] == [[1], [4, 6], [2, 3], [0, 5]]


def test_scoring_batches_keep_to_their_limits():
    length = np.random.default_rng(0).integers(1, 60, 2000)
    for batch_size in (1, 7, 64, 3000):
        for batch in scoring_batches(length, batch_size):
            longest = length[batch].max()
            assert len(batch) <= batch_size
            assert len(batch) * longest <= max(batch_size * POSITIONS_PER_USER, longest)


def test_tables_of_the_right_size_load(tmp_path):
    folder = write_dataset(tmp_path)
    data = Interactions(folder / "Small.txt", 50)
    graph, sequence = load_graph_embeddings("MMHCL", data), load_sequence_embeddings(data)
    assert len(graph) == N_ITEMS == len(sequence) - 1
    assert data.n_interactions == sum(map(len, sequences()))


def test_missing_files_are_listed(tmp_path):
    names = required_files("Beauty", "MMHCL")
    with pytest.raises(FileNotFoundError, match="no such folder; expected .*Beauty.txt, MMHCL_item_embeddings.pt"):
        require_files(tmp_path, "Beauty", names)
    (tmp_path / "sequential" / "Beauty").mkdir(parents=True)
    (tmp_path / "sequential" / "Beauty" / "Beauty.txt").touch()
    with pytest.raises(FileNotFoundError, match="MMHCL_item_embeddings.pt, SASRec_item_embedding.pt missing"):
        require_files(tmp_path, "Beauty", names)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real interaction files are not on this machine")
@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "samples", "steps"),
    [
        ("Beauty", 22_363, 12_101, 198_502, 127_598, 18_228),
        ("Toys_and_Games", 19_412, 11_924, 167_597, 106_254, 15_179),
        ("Sports_and_Outdoors", 35_598, 18_357, 296_337, 187_694, 26_813),
    ],
)
def test_counts_of_the_real_data(name, users, items, interactions, samples, steps):
    data = Interactions(REAL / name / f"{name}.txt", 50)
    assert (data.n_users, data.n_items, data.n_interactions) == (users, items, interactions)
    train = data.prefix_samples()
    assert len(train) == samples
    assert len(training_batches(train.length, 7, 2024, 0)) == steps
    assert len(data.validation()) == len(data.test()) == users


@pytest.mark.parametrize("seed", range(20))
def test_files_read_in_blocks_are_read_as_by_line(tmp_path, monkeypatch, seed):
    """Random small changes of a file: where the quick reader answers, the reader of lines gives the same."""
    monkeypatch.setattr("utils.data.rows.BLOCK_BYTES", 30)  # some lines per block
    rng = np.random.default_rng(seed)
    rows = [[user, *rng.integers(0, 30, rng.integers(1, 6))] for user in range(5)]
    text = "\n".join(" ".join(map(str, row)) for row in rows) + "\n"
    path = tmp_path / "Small.txt"
    n_answers = 0
    for _ in range(200):
        position = rng.integers(0, len(text) + 1)
        odd = ["", " ", "\n", "0", "7", "x", "\t", "\r\n", "1234567890", "-", "\ufeff", "٣"][rng.integers(0, 12)]
        path.write_text(text[:position] + odd + text[position + rng.integers(0, 2) :], encoding="utf-8")
        answer = _read_blocks(path)
        if answer is None:
            continue
        n_answers += 1
        for quick, by_line in zip(answer, _read_by_line(path), strict=True):
            assert quick.dtype == by_line.dtype == np.int64
            np.testing.assert_array_equal(quick, by_line)
    assert n_answers > 20


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("1 1\n1 2\n1 3\n2 1\n2 4\n", " --columns user,item --order_of_lines"),
        ("0 0\n0 2\n1 3\n1 1\n", " --columns user,item --order_of_lines"),
        ("A1YJEY40YUW4SE B004ZT0SSG B0020YLEYK\nA60XNB876KYML 7806397051\n", ""),
    ],
)
def test_layouts_of_other_projects_are_named_with_the_command_that_reads_them(tmp_path, content, flags):
    path = tmp_path / "Mine.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="where .* belong") as error:
        Interactions(path, 0)
    command = "move it to another folder, and convert it: python -m preprocess.own FILE --dataset Mine"
    assert str(error.value).endswith(command + flags)
    assert "\n" not in str(error.value)


def test_a_file_without_a_last_newline_is_read_in_blocks(tmp_path):
    path = tmp_path / "Small.txt"
    path.write_bytes(b"0 1 0 2\n1 2 1")
    items, length = _read_blocks(path)
    assert items.tolist() == [1, 0, 2, 2, 1]
    assert length.tolist() == [3, 2]
