"""Features of another program: their rows are put in the order of the items, or compared with it."""

import numpy as np
import pytest
import scipy.sparse as sp

from preprocess import check, features
from tests.support.small_tables import convert, dataset, encode, last_lines, mapping, purchases, row
from utils.data.features import load_features

IDS = [str(n) for n in (12, 3, 7, 1, 40, 10, 2, 9, 11, 4, 5, 8)]  # of the rows; 40 is no item, and 6 has no row


@pytest.fixture
def numbered(tmp_path, capsys):
    """Convert interactions with items 1 to 12."""
    assert convert(tmp_path, purchases(range(1, 13), per_user=12)) == 0
    capsys.readouterr()
    return tmp_path


def rows_of(ids):
    """Return features whose first number is the id."""
    return np.array([[float(text), 1 + float(text) % 3, 0] for text in ids], np.float32)


def as_npy(root):
    np.save(root / "other_feat.npy", rows_of(IDS))
    (root / "other_ids.txt").write_text("\n".join(IDS) + "\n")
    return [str(root / "other_feat.npy")]


def as_npy_with_a_file(root):
    np.save(root / "rows.npy", rows_of(IDS))
    (root / "some.txt").write_text("id\n" + "\n".join(f"{text}.0" for text in IDS) + "\n")
    return [str(root / "rows.npy"), "--ids", str(root / "some.txt")]


def as_npy_with_numbers(root):
    np.save(root / "rows.npy", rows_of(IDS))
    np.save(root / "ids.npy", np.array(IDS, dtype=np.int64))
    return [str(root / "rows.npy"), "--ids", str(root / "ids.npy")]


def as_npy_with_a_table(root):
    np.save(root / "rows.npy", rows_of(IDS))
    (root / "ids.csv").write_text("row,code\n" + "".join(f"r{n},{text}\n" for n, text in enumerate(IDS)))
    return [str(root / "rows.npy"), "--ids", str(root / "ids.csv")]


def as_npz(root):
    np.savez(root / "rows.npz", names=np.array(IDS), features=rows_of(IDS))
    return [str(root / "rows.npz")]


def as_sparse(root):
    sp.save_npz(root / "rows.npz", sp.csr_matrix(rows_of(IDS)))
    (root / "rows_ids.txt").write_text("\n".join(IDS) + "\n")
    return [str(root / "rows.npz")]


def as_table(root):
    lines = [",".join([text, *map(str, row)]) for text, row in zip(IDS, rows_of(IDS), strict=True)]
    (root / "rows.csv").write_text("\n".join(["item_id,f1,f2,f3", *lines]) + "\n")
    return [str(root / "rows.csv")]


def as_recbole(root):
    lines = [f"{' '.join(map(str, row))}\t{text}" for text, row in zip(IDS, rows_of(IDS), strict=True)]
    (root / "rows.itememb").write_text("\n".join(["item_emb:float_seq\tiid:token", *lines]) + "\n")
    return [str(root / "rows.itememb")]


@pytest.mark.parametrize(
    "write",
    [as_npy, as_npy_with_a_file, as_npy_with_numbers, as_npy_with_a_table, as_npz, as_sparse, as_table, as_recbole],
)
def test_rows_of_another_program_are_put_in_the_order_of_the_items(numbered, write, capsys):
    assert encode(numbered, "import", *write(numbered), "--name", "audio") == 0
    out = last_lines(capsys)
    assert row(out, "features").startswith("features 11 of 12")
    assert row(out, "passed over: rows of other items").endswith(" 1")
    (path,) = dataset(numbered).glob("audio_feat.*")
    found = load_features(path, 12)
    found = found.toarray() if sp.issparse(found) else found.numpy()
    expected = rows_of(mapping(numbered))
    expected[mapping(numbered).index("6")] = 0
    np.testing.assert_array_equal(found, expected)
    assert (dataset(numbered) / "audio_ids.txt").read_text().split() == mapping(numbered)


def test_rows_numbered_from_0_or_1_may_have_their_numbers_as_ids(numbered):
    np.save(numbered / "rows.npy", rows_of(range(13)))
    for first in ("0", "1"):
        assert encode(numbered, "import", str(numbered / "rows.npy"), "--ids", first, "--overwrite") == 0
        assert np.load(dataset(numbered) / "image_feat.npy")[:, 0].tolist() == list(
            range(1 - int(first), 13 - int(first))
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: ["--ids", ""], "rows.npy: no ids of its 12 rows; --ids takes a file with one per line"),
        (lambda root: write_ids(root, IDS[:-1]), "ids.txt: 11 ids for 12 rows"),
        (lambda root: write_ids(root, [*IDS[:-1], IDS[0]]), "ids.txt: id '12' is there twice"),
        (lambda root: write_ids(root, [f"sku{text}" for text in IDS]), "none of its 12 ids is one of the 12 in"),
        (lambda root: ["--ids", str(root / "nowhere.txt")], "nowhere.txt"),
    ],
)
def test_rows_without_usable_ids_are_refused(numbered, change, message, capsys):
    np.save(numbered / "rows.npy", rows_of(IDS))
    assert encode(numbered, "import", str(numbered / "rows.npy"), *change(numbered)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(dataset(numbered).glob("image*"))


def write_ids(root, ids):
    (root / "ids.txt").write_text("\n".join(ids) + "\n")
    return ["--ids", str(root / "ids.txt")]


def test_a_table_with_texts_among_its_numbers_is_refused(numbered, capsys):
    (numbered / "rows.csv").write_text("item,f1,f2\n1,0.5,red\n")
    assert encode(numbered, "import", str(numbered / "rows.csv")) == 2
    assert "rows.csv: line 2: not numbers separated by commas or blanks beside the id '1'" in capsys.readouterr().err


def test_import_tells_what_it_needs(capsys):
    with pytest.raises(SystemExit):
        features.main(["import"])
    assert "the following arguments are required: FILE" in capsys.readouterr().err


def test_ids_beside_features_are_compared_by_every_reader(numbered, capsys):
    """The rows are in the order of text: 1, 10, 11, …; an import, and features made anew, mend it."""
    folder = dataset(numbered)
    ids = sorted(mapping(numbered))
    np.save(folder / "audio_feat.npy", rows_of(ids))
    (folder / "audio_ids.txt").write_text("\n".join(ids) + "\n")
    with pytest.raises(ValueError, match="line 2: '10' where i_id_mapping.csv has '2'; put the rows in the order of"):
        load_features(folder / "audio_feat.npy", 12)
    check.main(["--dataset", "X", "--data_dir", str(numbered / "data")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "audio_feat.npy" in line]
    assert line.startswith("wrong")
    assert "python -m preprocess.features import" in line
    assert encode(numbered, "import", str(folder / "audio_feat.npy"), "--name", "audio", "--overwrite") == 0
    assert load_features(folder / "audio_feat.npy", 12)[:, 0].tolist() == list(range(1, 13))
    check.main(["--dataset", "X", "--data_dir", str(numbered / "data")])
    assert "   ids as in i_id_mapping.csv" in capsys.readouterr().out


def test_features_in_numeric_order_fit_and_the_check_says_what_it_compared(numbered, capsys):
    np.save(dataset(numbered) / "audio_feat.npy", rows_of(range(1, 13)))
    check.main(["--dataset", "X", "--data_dir", str(numbered / "data")])
    out = capsys.readouterr().out
    assert "features of 12 of 12 items" in out
    assert "no audio_ids.txt: row i is item i of i_id_mapping.csv" in out
    assert "whole numbers in their order" in out
    lines = ["item_id,asin", *(f"{number},{text}" for number, text in enumerate(sorted(mapping(numbered))))]
    (dataset(numbered) / "i_id_mapping.csv").write_text("\n".join(lines) + "\n")
    check.main(["--dataset", "X", "--data_dir", str(numbered / "data")])
    assert (
        "numbers in another order: features from elsewhere need preprocess.features import" in capsys.readouterr().out
    )
