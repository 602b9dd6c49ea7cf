"""Readable files with invalid content: one line of error with path, position and remedy, and nothing is written."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.support.bad_files import (
    DATA,
    GRAPH,
    ITEMS,
    META,
    RAW,
    REVIEWS,
    SEQUENCE,
    TABLE,
    TXT,
    copy_template,
    error_line,
    fetch,
    graph,
    image,
    plan,
    raw_2014,
    raw_2018,
    raw_2023,
    sequence,
    table,
    text,
    train,
    write_everything,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("template"))


@pytest.fixture
def place(template, tmp_path):
    return copy_template(template, tmp_path / "place")


NAN, INF = float("nan"), float("inf")
HUGE_NPY = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(117) + b"\n"
LINE = {"reviewerID": "u1", "asin": "A", "unixReviewTime": 3}


def tensor(change):
    """Return damage that replaces the tensor of a file by any object."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


def array(change):
    return lambda path: np.save(path, change(np.load(path)))


def sparse(change):
    return lambda path: sp.save_npz(path, change(sp.load_npz(path)))


def arrays(**changes):
    """Return damage that changes arrays of which scipy composes a sparse matrix."""

    def damage(path):
        with np.load(path) as old:
            content = dict(old)
        np.savez(path, **content | {name: change(content[name]) for name, change in changes.items()})

    return damage


def entry(name, content):
    """Return damage that replaces an entry of a zip archive."""

    def damage(path):
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
            for other in old.namelist():
                new.writestr(other, content if other == name else old.read(other))

    return damage


def lines(change):
    def damage(path):
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return damage


def content(text):
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def more(line):
    """Return damage that appends a line to a gzipped file."""

    def damage(path):
        with gzip.open(path, "ab") as file:
            file.write((line if isinstance(line, bytes) else repr(line).encode()) + b"\n")

    return damage


def repacked(compression, times=1):
    """Return damage that writes the entries of a PyTorch file again, each of them listed `times` times."""

    def damage(path):
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w", compression) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
            new.filelist *= times

    return damage


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(bytes(damaged))


def one_based(line):
    return " ".join(str(int(word) + 1) for word in line.split())


def spoiled(rows, index, value):
    rows[index] = value
    return rows


INTERACTIONS = [
    (content("0 1 2\n\n2 3 0\n"), "line 2 is empty; remove it, or give user 1"),
    (content("\n0 1 2\n"), "line 1 is empty"),
    (content("0 1 2\n1 x 0\n"), "line 2: 'x' is not an id or a day; write whole numbers, 0 to 999999999"),
    (content("0 1 2\n1 ² 0\n"), "line 2: '²' is not an id"),
    (content("0 1 -2\n"), "line 1: '-2' is not an id"),
    (content("-1 1 2\n"), "line 1: '-1' is not an id"),
    (content("0 1 2.0\n"), "line 1: '2.0' is not an id"),
    (content("0 1 nan\n"), "line 1: 'nan' is not an id"),
    (content("0,1,2\n"), "line 1: '0,1,2' is not an id"),
    (content("0 1 2147483648\n"), "line 1: '2147483648' is not an id or a day; write whole numbers, 0 to 999999999"),
    (content("0 1 2" + "9" * 5000), "line 1: '2999"),
    (content("0 1 0\n1 999999999 2 3 4 5\n"), "line 2: item 999999999, but there are only 7 different ones"),
    (content("0 1 0\n2 3 0\n"), "line 2: user 2 where 1 belongs; number users 0, 1, 2"),
    (content("0 1 0\n2 3 0\n1 1 0\n"), "line 2: user 2 where 1 belongs"),
    (content("0 1 0\n0 3 0\n"), "line 2: user 0 where 1 belongs"),
    (content("0 1 0\n1\n"), "line 2: user 1 has no item; give it some"),
    (content("1 1 2 3\n2 4 5\n"), "line 1: the first user is 1: this is the 1-based layout"),
    (content("0 1 2 3\n1 4 5\n"), "item 0 is missing: this looks like the 1-based layout"),
    (lines(lambda old: [*map(one_based, old)]), "line 1: the first user is 1: this is the 1-based layout"),
    (lines(lambda old: [*old, "120 4 999 5 6"]), "40 rows, but"),
    (content("user\titem\n0\t1\n"), "line 1: 'user' is not an id"),
    (content("0 0 0 0 0 0\n"), "item 0 is the only one; two or more are expected"),
    (content("0 0 1\n1 2\n"), "no user has the four items to train on"),
    (
        content("0 1 0\n".encode("utf-16")),
        "not a text file of numbers (invalid start byte at byte 0); download it again",
    ),
    (content(b"0 1 0\x00\n"), "line 1: '0\\x00' is not an id"),
    (content(gzip.compress(b"0 1 0\n")), "not a text file of numbers (invalid start byte at byte 1); download it"),
]
TABLES = [
    (GRAPH, tensor(lambda t: t[:-1].clone()), "39 rows, but"),
    (GRAPH, tensor(lambda t: torch.cat([t, t[:1]])), "41 rows, but"),
    (SEQUENCE, tensor(lambda t: t[1:].clone()), "which needs 41 (row 0 is padding); make both from the same data"),
    (SEQUENCE, tensor(lambda t: spoiled(t, 3, NAN)), "row 3 holds NaN or infinity; regenerate the table"),
    (GRAPH, tensor(lambda t: spoiled(t.double(), 39, 1e300)), "row 39 holds NaN or infinity"),
    (GRAPH, tensor(lambda t: t.long()), "a float tensor (rows, width) is expected"),
    (GRAPH, tensor(lambda t: t.to(torch.complex64)), "a float tensor (rows, width) is expected"),
    (GRAPH, tensor(lambda t: {"weight": t}), "a float tensor (rows, width) is expected"),
    (GRAPH, tensor(lambda t: t.tolist()), "a float tensor (rows, width) is expected"),
    (GRAPH, tensor(lambda t: t.flatten()), "a matrix (rows, width) of numbers is expected"),
    (GRAPH, tensor(lambda t: t[:, :0].clone()), "a matrix (rows, width) of numbers is expected"),
    (GRAPH, tensor(lambda t: t.to_sparse()), "a matrix (rows, width) of numbers is expected"),
    (GRAPH, tensor(lambda t: t.to("meta")), "a matrix (rows, width) of numbers is expected"),
    (GRAPH, tensor(lambda t: t[:1, :1].clone().expand(10**12, 6)), "a matrix (rows, width) of numbers is expected"),
    (
        GRAPH,
        repacked(zipfile.ZIP_DEFLATED),
        "not a PyTorch file of tensors (its entries are compressed, or longer than",
    ),
    (
        GRAPH,
        repacked(zipfile.ZIP_STORED, 99),
        "not a PyTorch file of tensors (its entries are compressed, or longer than",
    ),
    (
        SEQUENCE,
        tensor(lambda t: t.numpy()),
        "not a PyTorch file of tensors (it holds other objects than tensors, which",
    ),
]
FEATURES = [
    ("image_feat.npy", array(lambda a: a[:-2]), "38 rows for 40 items; make it from the same interaction file"),
    ("image_feat.npy", array(lambda a: spoiled(a, (7, 1), NAN)), "row 7 holds NaN or infinity"),
    ("image_feat.npy", array(lambda a: spoiled(a, 0, -INF)), "row 0 holds NaN or infinity"),
    ("image_feat.npy", array(lambda a: spoiled(a, 2, 1e300)), "row 2 holds NaN or infinity"),
    ("image_feat.npy", array(np.zeros_like), "every row is zero"),
    ("image_feat.npy", array(lambda a: a[0]), "a matrix (rows, width) of numbers is expected"),
    ("image_feat.npy", array(lambda a: a[:, :0]), "a matrix (rows, width) of numbers is expected"),
    ("image_feat.npy", array(lambda a: a + 1j), "a matrix (rows, width) of numbers is expected"),
    ("image_feat.npy", array(lambda a: a.astype("U5")), "cut short or not an array of numbers; regenerate it"),
    ("image_feat.npy", array(lambda a: a.astype(object)), "cut short or not an array of numbers"),
    ("image_feat.npy", content(b"\x93NUMPY\x01\x00\x76\x00" + HUGE_NPY), "cut short or not an array of numbers"),
    ("text_feat.pt", tensor(lambda t: t[:-1].clone()), "39 rows for 40 items"),
    ("text_feat.pt", tensor(lambda t: spoiled(t, 5, NAN)), "row 5 holds NaN"),
    ("text_feat.pt", tensor(lambda t: [t]), "a matrix (rows, width) of numbers is expected"),
    ("text_feat.pt", tensor(lambda t: t[0, 0].clone().expand(10**12, 3)), "a matrix (rows, width) of numbers"),
    ("text_feat.pt", tensor(lambda t: t.numpy()), "it holds other objects than tensors, which are never loaded"),
]
NO_CSR = "cut short or not a CSR matrix of real numbers, as scipy.sparse.save_npz writes it; regenerate it"
SPARSE_FEATURES = [
    (sparse(lambda m: m[:-1]), "39 rows for 40 items; make it from the same interaction file"),
    (sparse(lambda m: m * 0), "every row is zero"),
    (sparse(lambda m: sp.csr_matrix(m.shape)), "every row is zero"),
    (sparse(lambda m: sp.csr_matrix(spoiled(m.toarray(), (7, 1), NAN))), "row 7 holds NaN or infinity"),
    (sparse(lambda m: sp.csr_matrix(spoiled(m.toarray(), (0, 8), -INF))), "row 0 holds NaN or infinity"),
    (sparse(lambda m: sp.csr_matrix(spoiled(m.toarray(), (2, 3), 1e300))), "row 2 holds NaN or infinity"),
    (sparse(lambda m: m.tocsc()), NO_CSR),
    (sparse(lambda m: m + m * 1j), NO_CSR),
    (arrays(data=lambda data: data.astype(object)), NO_CSR),
    (arrays(data=lambda data: data[:-3]), NO_CSR),
    (arrays(indices=lambda indices: indices - 1), NO_CSR),
    (arrays(indptr=lambda indptr: indptr[::-1]), NO_CSR),
    (arrays(indptr=lambda indptr: spoiled(spoiled(indptr, -1, 0), -2, 10**6)), NO_CSR),
    # Their difference overflows int32 and looks positive
    (arrays(indptr=lambda indptr: spoiled(spoiled(indptr.astype(np.int32), -1, -(2**31) + 5), -2, 2**31 - 5)), NO_CSR),
    (arrays(shape=lambda shape: shape - [0, 5]), NO_CSR),
    (arrays(shape=lambda shape: shape + [10**12, 0]), NO_CSR),
    (arrays(format=lambda name: np.array(b"other")), NO_CSR),
    (entry("data.npy", b"\x93NUMPY\x01\x00\x76\x00" + HUGE_NPY), NO_CSR),
    (entry("data.npy", b""), NO_CSR),
]
NO_ID, NO_TEXT = "is not an id from 0 to 39; make it from the same raw files", "no text in it; expected are lines"
ITEM_FILES = [
    (text, "item_text.tsv", lines(lambda old: [old[0], "40\tA\tx y"]), f"line 2: '40' {NO_ID}"),
    (text, "item_text.tsv", lines(lambda old: [*old[:5], "x\tA\tx y"]), f"line 6: 'x' {NO_ID}"),
    (text, "item_text.tsv", lines(lambda old: [*old, "-1\tA\tx y"]), f"line 42: '-1' {NO_ID}"),
    (text, "item_text.tsv", lines(lambda old: [*old, "²\tA\tx y"]), f"line 42: '²' {NO_ID}"),
    (text, "item_text.tsv", lines(lambda old: [*old, "9" * 5000 + "\tA"]), "line 42: '9999"),
    (text, "item_text.tsv", lines(lambda old: [*old[:3], "", *old[3:]]), f"line 4: '' {NO_ID}"),
    (text, "item_text.tsv", lines(lambda old: [*old, old[1]]), "line 42: id 0 is there twice; remove one of them"),
    (text, "item_text.tsv", lines(lambda old: old[:1]), NO_TEXT),
    (
        text,
        "item_text.tsv",
        lines(lambda old: [line.replace("\t", ",") for line in old]),
        "line 2: '0,A0,group0 thing0 ",
    ),
    (text, "item_text.tsv", lines(lambda old: [*old[:1], "0\tA\tonce"]), "no word occurs in two texts to compare"),
    (
        fetch,
        "item_image.tsv",
        lines(lambda old: old[1:]),
        "line 1: '0\\tA0\\tx' where the header 'item_id\\tasin\\turl'",
    ),
    (fetch, "item_image.tsv", lines(lambda old: [*old[:3], "2\tA2"]), "line 4: item id, ASIN and address are expected"),
    (
        fetch,
        "item_image.tsv",
        lines(lambda old: [*old[:3], "2\tA1\tx"]),
        "line 4: item 2 is A1, but A2 in i_id_mapping",
    ),
    (fetch, "item_image.tsv", lines(lambda old: [*old[:3], "2\t../A\tx"]), "line 4: '../A' is not an ASIN"),
    (fetch, "item_image.tsv", lines(lambda old: [*old, "40\tA40\tx"]), f"line 42: '40' {NO_ID}"),
    (image, "i_id_mapping.csv", lines(lambda old: ["item_id;asin"]), "line 1: 'item_id;asin' where the header"),
    (image, "i_id_mapping.csv", lines(lambda old: [*old[:3], "2,A1"]), "line 4: A1 is item 2, but item 1 too; correct"),
    (image, "i_id_mapping.csv", lines(lambda old: [*old[:1], "0,/etc/passwd"]), "line 2: '/etc/passwd' is not an ASIN"),
    (
        image,
        "i_id_mapping.csv",
        lines(lambda old: [*old[:1], "0,B0"]),
        "item_image.tsv: line 2: item 0 is A0, but B0 in",
    ),
]
RELEASE_FILES = [
    (REVIEWS, flip, "reviews_Small_5.json.gz: "),
    (REVIEWS, content(gzip.compress(b"")), "no review in it; download it again"),
    (REVIEWS, more(b"{'reviewerID': 'u1', "), "line 15: not a Python literal"),
    (REVIEWS, more(b"\xff\xfe"), "line 15: not a Python literal"),
    (REVIEWS, more(b"{[]: 1}"), "line 15: not a Python literal"),
    (REVIEWS, more(b"(" * 5000), "line 15: not a Python literal"),
    (REVIEWS, more(b"'" + b" " * 2**24), "line 15: longer than 16,777,216 bytes; take a release file"),
    (REVIEWS, more(["u1", "A", 3]), "line 15: a mapping of field names is expected, not list; remove it"),
    (REVIEWS, more({"reviewerID": "u1", "unixReviewTime": 3}), "line 15: no asin; remove the line or complete it"),
    (
        REVIEWS,
        more(LINE | {"reviewerID": 7}),
        "line 15: reviewerID 7 is not of type str; remove the line or correct it",
    ),
    (REVIEWS, more(LINE | {"asin": "u 1"}), "line 15: 'u 1' is not an id; remove the line or correct it"),
    (REVIEWS, more(LINE | {"asin": "../../A"}), "line 15: '../../A' is not an id"),
    (REVIEWS, more(LINE | {"unixReviewTime": "soon"}), "line 15: unixReviewTime 'soon' is not of type int"),
    (REVIEWS, more(LINE | {"unixReviewTime": 10**20}), "line 15: unixReviewTime 1000"),
    (REVIEWS, more(LINE | {"unixReviewTime": -1}), "line 15: unixReviewTime -1 is no time since 1970"),
    (
        REVIEWS,
        more(b"{'reviewerID': 'u', 'asin': 'A', 'unixReviewTime': 0x" + b"f" * 9000 + b"}"),
        "line 15: unixReviewTime of thousands of digits is no time",
    ),
    (META, content(b"{'title': 'no name'}"), "line 1: no asin"),
    (META, more(b"{'asin': 3}"), "line 4: asin 3 is not of type str"),
    (META, content(b""), "no metadata in it; download it again"),
    (META, content(b"{'asin': 'Z'}"), "none of the 3 items is in it; take the metadata of the same category"),
    ("Small_5.json", content(b"[" * 100_000), "line 1: not JSON or a Python literal"),
    ("Small_5.json", lines(lambda old: [*old[:3], old[3][:-5], *old[4:]]), "line 4: not JSON"),
    (
        "Small_5.json",
        lines(lambda old: [*old, '{"reviewerID": "u", "asin": "A", "unixReviewTime": NaN}']),
        "nan is not of",
    ),
    ("Small.jsonl.gz", more(b'{"user_id": "u", "parent_asin": null, "timestamp": 1}'), "line 15: no parent_asin"),
    ("Small.jsonl.gz", more(b'{"user_id": "u", "parent_asin": "A", "timestamp": 1e300}'), "line 15: timestamp 1e+300"),
]
OWN_FILES = [
    (TABLE, lines(lambda old: old[:1]), "no line below a header; "),
    (TABLE, lines(lambda old: ["user,item,when", *old[1:]]), "no column time or timestamp or date; --time takes one"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1", *old[3:]]), "line 4: 2 fields, but 3 in the header; correct"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1,3,4"]), "line 4: 4 fields, but 3 in the header"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1,soon"]), "line 4: 'soon' is neither a number nor a date; write "),
    (TABLE, lines(lambda old: [*old[:3], "u,A1,inf"]), "line 4: 'inf' is neither a number nor a date"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1,2024-02-30"]), "line 4: '2024-02-30' is neither a number nor a date"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1," + "9" * 5000]), "line 4: '9999"),
    (TABLE, lines(lambda old: [*old[:3], "u,A1,2024-01-31"]), "line 4: '2024-01-31' among numbers; write all times in"),
    (TABLE, lines(lambda old: [*old[:3], 'u,"A1"b,3']), "after line 3: "),
    (TABLE, lines(lambda old: [*old, 'u,"A1,3']), "after line "),
    (TABLE, lines(lambda old: old[:9]), "no user and item with 5 interactions each; try a lower --k_core"),
    (ITEMS, lines(lambda old: ["name,title,picture", *old[1:]]), "line 1: no column item_id or itemid or item; --item"),
    (ITEMS, lines(lambda old: [*old[:2], "A1,thing"]), "line 3: 2 fields, but 3 in the header"),
    (ITEMS, lines(lambda old: [*old[:2], "A1,thing,none.png"]), "line 3: 'none.png' is neither an address nor a file"),
    (ITEMS, lines(lambda old: [*old[:2], "A1,thing,table.csv"]), "line 3: 'table.csv' is neither an address nor"),
]
PROGRAM_OF = {"Small_5.json": raw_2018, "Small.jsonl.gz": raw_2023}
CONTENTS = [
    *((train, DATA / TXT, *case) for case in INTERACTIONS),
    *((train, DATA / name, *case) for name, *case in TABLES),
    *((plan, DATA / name, damage, message) for name, damage, message in TABLES if "matrix" in message),
    (plan, DATA / GRAPH, tensor(lambda t: {"weight": t}), "a float tensor (rows, width) is expected"),
    (plan, DATA / TXT, content("0 0 1\n1 2\n"), "no user has the four items to train on"),
    *((graph, DATA / name, *case) for name, *case in FEATURES),
    *((graph, DATA / "tags_feat.npz", *case) for case in SPARSE_FEATURES),
    *((program, DATA / name, *case) for program, name, *case in ITEM_FILES),
    *((PROGRAM_OF.get(name, raw_2014), RAW / name, *case) for name, *case in RELEASE_FILES),
    *((table, RAW / name, *case) for name, *case in OWN_FILES),
    (sequence, DATA / TXT, content("0 0 1 2\n"), "no user has the four items to train on"),
    (graph, DATA / TXT, content("0 0 1\n"), "no user has a training item"),
]


@pytest.mark.parametrize(("program", "path", "damage", "message"), CONTENTS)
def test_invalid_content_is_refused_with_its_position(place, capfd, program, path, damage, message):
    damage(place / path)
    line = error_line(place, capfd, *program(place))
    assert message in line
    assert path.name in line
