"""Tables of any shape are read as the same columns, or refused in a line that says what the file is and what to do."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from preprocess import own
from preprocess.raw.table import INTERACTIONS, ITEMS, Table

ROWS = [
    (user, item, str(1_300_000_000 + 60 * n)) for n, (user, item) in enumerate(["ab", "ac", "bb", "cd", "ca", "db"])
]
HEADER = ("user", "item", "time")
KNOWN = (*HEADER, "title")


def table(folder, content, kind=INTERACTIONS, **options):
    path = folder / "table.any"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(path, kind, known=KNOWN, **options)


def values(read, names=HEADER):
    """Return the values of some columns per record, without the position."""
    return [row[1:] for row in read.rows([read.require("user", (name,)) for name in names])]


def joined(separator, rows=ROWS, header=HEADER, end="\n"):
    return "".join(separator.join(row) + end for row in ([header] if header else []) + list(rows))


def refused(folder, content, message, **options):
    with pytest.raises(ValueError, match=message) as error:
        values(table(folder, content, **options))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


# ---------------------------------------------------------------- separators


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::", " ", "   "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_are_recognised(tmp_path, separator, end):
    read = table(tmp_path, joined(separator, end=end))
    assert values(read) == ROWS


def test_separator_is_that_of_the_columns_not_of_their_texts(tmp_path):
    titles = ["Lamp, red", "Cup, a|b", "Box; c", "1,5 m", "x, y, z", "a::b"]
    rows = [(*row, title) for row, title in zip(ROWS, titles, strict=True)]
    for separator in ("\t", "::", "|", ";"):
        fitting = [row for row in rows if separator not in row[3]]
        read = table(tmp_path, joined(separator, fitting, (*HEADER, "title")))
        assert values(read, (*HEADER, "title")) == fitting


def test_decimal_commas_and_dates_separate_no_columns(tmp_path):
    for separator, time in ((";", "45322,04"), (" ", "3,5"), (",", "2024-01-31 10:00:00"), (";", "2024-01-31 10:00")):
        rows = [(user, item, time) for user, item, _ in ROWS]
        assert values(table(tmp_path, joined(separator, rows))) == rows
    text = "".join(f"{user} {item} 3,5 {time}\n" for user, item, time in ROWS)
    assert values(table(tmp_path, text)) == ROWS


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_with_the_separator_is_no_header(tmp_path, line, mark):
    read = table(tmp_path, f"{mark}{line}\r\n{joined(';', end=chr(13) + chr(10))}")
    assert values(read) == ROWS
    assert next(read.rows([0]))[0].endswith("line 3")


def test_comments_above_are_passed_over_and_told(tmp_path):
    read = table(tmp_path, "% bip weighted\n% 6 4 4\n" + joined("\t", header=None), names=HEADER)
    assert values(read) == ROWS
    assert "2 lines of comment above" in read.describe()
    assert values(table(tmp_path, "#" + joined("\t"))) == ROWS  # a header that begins like a comment


# ---------------------------------------------------------------- header or none


@pytest.mark.parametrize("separator", [",", "\t", "::", ";", "|", " "])
def test_ratings_without_a_header_are_recognised(tmp_path, separator):
    rows = [(user, item, "4.5", time) for user, item, time in ROWS]
    read = table(tmp_path, joined(separator, rows, header=None))
    assert values(read) == ROWS
    assert "names assumed, as it has no header; --columns gives others" in read.describe()
    assert values(table(tmp_path, joined(separator, header=None))) == ROWS


def test_amazon_ratings_of_2018_have_the_item_first(tmp_path):
    rows = [(f"B00000000{item}", f"A1HTATAQ9V7Y{user}", "5.0", str(1_300_000_000)) for user in "ABC" for item in "123"]
    assert table(tmp_path, joined(",", rows, header=None)).names == ["item", "user", "rating", "time"]
    swapped = [(user, item, *rest) for item, user, *rest in rows]
    assert table(tmp_path, joined(",", swapped, header=None)).names == ["user", "item", "rating", "time"]


def test_check_ins_without_a_header_are_recognised(tmp_path):
    text = "".join(f"{n}\t2010-10-19T23:55:27Z\t30.2\t-97.7\t{220 + n}\n" for n in range(5))
    assert values(table(tmp_path, text))[0] == ("0", "220", "2010-10-19T23:55:27Z")


@pytest.mark.parametrize("header", [None, ("uid", "sku", "when"), HEADER])
def test_columns_are_named_by_a_flag(tmp_path, header):
    rows = [("1", "7", "30"), ("1", "8", "40"), ("2", "7", "10")]
    read = table(tmp_path, joined(",", rows, header), names=HEADER)
    assert values(read) == rows
    assert "names by --columns" in read.describe()
    assert ("in place of the header's" in read.describe()) == bool(header)


def test_table_without_a_header_is_refused_with_the_flag(tmp_path):
    text = "1,7,x,30\n2,8,y,50\n"
    refused(tmp_path, text, r"line 1: no header above '1, 7, x, 30'; name the 4 columns .* --columns user,item")
    refused(tmp_path, text, "4 columns, but --columns names 2", names=("user", "item"))
    refused(tmp_path, "x,y\nz,y\n", r"no column .* \(x, y\); if that is no header, --columns names the columns")


def test_items_without_a_header_have_id_and_title(tmp_path):
    text = "1::Toy Story (1995)::Animation|Children's\n2::Jumanji (1995)::Adventure\n3::Cité, La (1995)::Drama\n"
    for encoding in ("utf-8", "latin-1"):
        read = table(tmp_path, text.encode(encoding), ITEMS)
        assert values(read, ("item", "title", "column3"))[2] == ("3", "Cité, La (1995)", "Drama")
        assert ("encoding cp1252" in read.describe()) == (encoding == "latin-1")
    text = "".join(f"{n}|Film {n} (1995)|01-Jan-1995||http://x/{n}|0|1\n" for n in range(1, 9))
    assert values(table(tmp_path, text, ITEMS), ("item", "title"))[7] == ("8", "Film 8 (1995)")
    named = table(tmp_path, text, ITEMS, names=("item", "a", "b", "c", "d", "e", "f"))
    assert values(named, ("item", "d"))[0] == ("1", "http://x/1")
    refused(tmp_path, "1|7\n2|8\n", "--item_columns item,title", kind=ITEMS)


@pytest.mark.parametrize("names", ["user_id:token,item_id:token,timestamp:float", "0,1,time", "Time,2014,x"])
def test_header_with_one_known_name_is_a_header(tmp_path, names):
    read = table(tmp_path, joined(",", ROWS, names.split(",")))
    assert len(values(read, (names.split(",")[0],))) == len(ROWS)


# ---------------------------------------------------------------- fields more or less than the header has


def test_row_names_of_r_are_left_out(tmp_path):
    for separator in (",", " ", "\t"):
        quoted = [(f'"{n}"', f'"{user}"', f'"{item}"', time) for n, (user, item, time) in enumerate(ROWS, 1)]
        text = joined(separator, quoted, [f'"{name}"' for name in HEADER])
        assert values(table(tmp_path, text)) == ROWS
        plain = [(str(3 * n), *row) for n, row in enumerate(ROWS)]  # rows of a subset
        read = table(tmp_path, joined(separator, plain))
        assert values(read) == ROWS
        assert "the first column, which has no name, is left out" in read.describe()
    pandas = joined(",", [(str(n), *row) for n, row in enumerate(ROWS)], ("", *HEADER))
    assert values(table(tmp_path, pandas)) == ROWS


@pytest.mark.parametrize("header_ends", ["", ";", ";;"])
@pytest.mark.parametrize("line_ends", ["", ";", ";;"])
def test_separators_at_the_ends_of_lines_are_no_columns(tmp_path, header_ends, line_ends):
    lines = [";".join(row) + line_ends for row in ROWS]
    assert values(table(tmp_path, "\n".join([";".join(HEADER) + header_ends, *lines, " "]))) == ROWS
    headless = [f"{line.replace(';', '::')}::" for line in lines]
    if not line_ends:
        assert values(table(tmp_path, "\n".join(headless))) == ROWS


def test_a_line_that_does_not_fit_is_refused(tmp_path):
    refused(tmp_path, joined(",", [*ROWS, ("x", "y")]), "line 8: 2 fields, but 3 in the header; correct or remove it")
    refused(tmp_path, joined(",", [*ROWS, ("x", "y", "1", "2")]), "line 8: 4 fields, but 3 in the header")
    rows = [(user, "Lamp", "red", time) for user, _, time in ROWS]  # a comma in every item
    refused(tmp_path, joined(",", rows), "line 2: 4 fields, but 3 in the header")


# ---------------------------------------------------------------- quotation marks

TEXTS = ['5" screen', "tab\there", "two\nlines", 'a ""quoted"" word', "plain", '"whole"']


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", " "])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_csv_programs_write_is_read(tmp_path, separator, quoting):
    for texts in (TEXTS, TEXTS[:1] * 6, TEXTS[1:2] * 6, TEXTS[2:3] * 6):
        rows = [(user, text, time) for (user, _, time), text in zip(ROWS, texts, strict=True)]
        written = io.StringIO()
        csv.writer(written, delimiter=separator, quoting=quoting).writerows([HEADER, *rows])
        assert values(table(tmp_path, written.getvalue())) == rows


def test_quotation_marks_of_a_tab_file_that_is_not_quoted_are_text(tmp_path):
    texts = ['"Weird Al" Yankovic', 'The "0" Artists', '"', '"Heroes"', 'so-called "', "a"]
    rows = [(user, text, time) for (user, _, time), text in zip(ROWS, texts, strict=True)]
    assert values(table(tmp_path, joined("\t", rows))) == rows
    one = [*ROWS[:5], ("d", '"Heroes"', ROWS[5][2])]
    assert values(table(tmp_path, joined("\t", one))) == one


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_backslashes_before_quotation_marks_are_read(tmp_path, separator):
    texts = ['A "real" one', 'ends with "', 'a "; b', "plain", "x, y", '"']
    lines = [
        separator.join(f'"{word}"' for word in (user, text.replace('"', '\\"'), time))
        for (user, _, time), text in zip(ROWS, texts, strict=True)
    ]
    read = table(tmp_path, "\n".join([separator.join(f'"{name}"' for name in HEADER), *lines]))
    assert [row[1] for row in values(read)] == texts
    assert "backslashes before quotation marks" in read.describe()


def test_backslashes_of_paths_are_text(tmp_path):
    rows = [(user, rf'"C:\pictures\{item}\"', time) for user, item, time in ROWS]
    assert values(table(tmp_path, joined(",", rows)))[0][1] == "C:\\pictures\\b\\"


def test_space_before_a_quotation_mark_is_not_text(tmp_path):
    text = "user, item, time\n" + "".join(f'{user}, "{item}, x", {time}\n' for user, item, time in ROWS)
    assert values(table(tmp_path, text))[0] == ("a", "b, x", ROWS[0][2])


@pytest.mark.parametrize("separator", ["\t", ",", "::"])
def test_fields_may_have_any_length(tmp_path, separator):
    rows = [*ROWS, ("e", "long " * 50_000 + "end", "1")]
    assert values(table(tmp_path, joined(separator, rows))) == rows


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_encodings_are_recognised(tmp_path, encoding, separator):
    rows = [(f"Zoë {user}", f"Cité {item}", time) for user, item, time in ROWS]
    read = table(tmp_path, joined(separator, rows).encode(encoding))
    assert values(read) == rows
    assert ("; encoding" in read.describe()) != encoding.startswith("utf-8")
    assert f" {len(ROWS) + 1} lines" in read.describe()


def test_encoding_is_recognised_far_from_the_beginning(tmp_path):
    rows = [("user", "item", str(n)) for n in range(100_000)]
    read = table(tmp_path, joined(",", [*rows, ("Zoë", "Cité", "1")]).encode("cp1252"))
    assert values(read)[-1] == ("Zoë", "Cité", "1")
    refused(tmp_path, joined(",", [("Zoë", "i", "1"), *rows]).encode() + b"caf\xe9,i,1\n", "line 100003: not UTF-8, as")


@pytest.mark.parametrize(
    ("encoding", "word"), [("gb18030", "新货红色台灯"), ("shift_jis", "こんにちは"), ("cp1251", "Привет")]
)
def test_other_alphabets_are_asked_for_and_read_with_the_flag(tmp_path, encoding, word):
    rows = [(user, word + item, time) for user, item, time in ROWS]
    content = joined(",", rows).encode(encoding)
    refused(
        tmp_path, content, "not UTF-8, and not of Western Europe; give its encoding, for example --encoding gb18030"
    )
    assert values(table(tmp_path, content, encoding=encoding)) == rows
    refused(tmp_path, b"\xff" + content, "line 1: not ASCII|not ASCII", encoding="ascii")


def test_unknown_encoding_is_refused_as_a_flag(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        own.main([str(tmp_path / "x.csv"), "--encoding", "klingon"])
    assert stop.value.code == 2
    assert "--encoding" in capsys.readouterr().err


# ---------------------------------------------------------------- compression and other formats


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return content.getvalue()


COMPRESSED = {
    "gzipped": gzip.compress,
    "compressed by bzip2": bz2.compress,
    "compressed by xz": lzma.compress,
    "a.csv in a zip archive": lambda content: zipped(a_csv=content, README_txt="about", _DS="x"),
}


@pytest.mark.parametrize("note", COMPRESSED)
def test_compressed_tables_are_read_whatever_their_name(tmp_path, note):
    content = COMPRESSED[note](joined(";").encode())
    read = table(tmp_path, content)
    assert values(read) == ROWS
    assert note in read.describe()
    assert values(table(tmp_path, gzip.compress(content))) == ROWS
    long = COMPRESSED[note](joined(";", ROWS * 2000).encode())
    refused(tmp_path, long[: len(long) // 2], "cut short or damaged")


@pytest.mark.parametrize("note", COMPRESSED)
def test_a_damaged_byte_of_a_compressed_table_is_no_other_error(tmp_path, note):
    content = COMPRESSED[note](joined(";").encode())
    messages = []
    for position in range(len(content)):
        for damage in (0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= damage
            try:
                values(table(tmp_path, bytes(damaged)))
            except ValueError as error:
                messages.append(str(error))
    assert messages
    assert all(str(tmp_path) in message for message in messages)


def test_archives_without_the_one_table_are_named(tmp_path):
    refused(tmp_path, zipped(a_csv="x", b_csv="y"), r"an archive of 2 files \(a.csv, b.csv\); unpack it and give")
    refused(tmp_path, zipped(README_md="x"), "an archive without one")


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"7z\xbc\xaf\x27\x1c", "an archive; unpack it"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it"),
        (b"SQLite format 3\0", "an SQLite database; write its table as CSV"),
        (b"\x80\x04\x95", "a Python pickle; write it as CSV"),
        (b"<!DOCTYPE html><html>", "a web page in HTML; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS's pointer to it; fetch the file"),
        (b"a" * 257 + b"ustar", "an archive; unpack it"),
        (bytes(range(256)), "not a table of text"),
    ],
)
def test_other_formats_are_named_with_the_way_out(tmp_path, beginning, message):
    refused(tmp_path, beginning + bytes(300), message)


OBJECTS = [{"user": user, "item": item, "stars": 5.0, "time": int(time)} for user, item, time in ROWS]
JSON_FORMS = {
    "lines": "\n".join(map(json.dumps, OBJECTS)),
    "lines with a mark": "\ufeff" + "\n\n".join(map(json.dumps, OBJECTS)),
    "Python": "\n".join(map(repr, OBJECTS)),
    "array": json.dumps(OBJECTS),
    "array over lines": json.dumps(OBJECTS, indent=2),
    "arrays": json.dumps([HEADER, *ROWS]),
}


@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_is_read(tmp_path, form):
    assert values(table(tmp_path, JSON_FORMS[form])) == ROWS
    assert values(table(tmp_path, gzip.compress(JSON_FORMS[form].encode()))) == ROWS


def test_values_of_json_become_text(tmp_path):
    entry = {"user": "a", "item": None, "time": 2**60 + 1, "tags": ["x", "y"], "more": {"é": 1}, "new": True}
    read = table(tmp_path, json.dumps(entry) + "\n" + json.dumps({"user": "b", "late": 3}))
    assert values(read, entry) == [
        ("a", "", str(2**60 + 1), "x, y", '{"é": 1}', "True"),
        ("b", "", "", "", "", ""),
    ]
    assert values(read, ("late",)) == [("",), ("3",)]


def test_other_json_is_named(tmp_path):
    refused(tmp_path, json.dumps({"user": {"0": "a"}}, indent=1), "one JSON object over several lines; write one per")
    refused(tmp_path, '{"user": 1}\nx\n', "line 2: not JSON")
    refused(tmp_path, '[{"user": 1}, 3]', "entry 2: a mapping of field names is expected, not int")
    refused(tmp_path, '[{"user": 1}, ', "not a JSON array")


def test_columnar_files_are_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["time"] = arrow.array([int(time) * 10**9 for time in columns["time"]], arrow.timestamp("ns", "UTC"))
    columns["tags"] = [["x", "y"]] * len(ROWS)
    frame = arrow.table(columns)
    parquet.write_table(frame, tmp_path / "t.parquet")
    with arrow.ipc.new_file(tmp_path / "t.arrow", frame.schema) as writer:
        writer.write_table(frame)
    for name, form in (("t.parquet", "Parquet"), ("t.arrow", "Arrow")):
        content = (tmp_path / name).read_bytes()
        for written in (content, gzip.compress(content)):
            read = table(tmp_path, written)
            assert form in read.describe()
            assert values(read, (*HEADER, "tags"))[1] == ("a", "c", "2011-03-13 07:07:40.000000000", "x, y")
        refused(tmp_path, content[:200], f"in the format {form} that cannot be read .* download it again, or save it")


CELL = '<c t="inlineStr"><is><t>{}</t></is></c>'
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def workbook(**sheets):
    """Return a workbook of sheets with rows of texts and numbers."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:

        def write(name, root, namespace, inner):
            archive.writestr(name, f'<{root} xmlns="{namespace}" xmlns:r="{OFFICE}">{inner}</{root}>')

        link = f'<Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        write("_rels/.rels", "Relationships", f"{PACKAGE}/relationships", link)
        listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1))
        write("xl/workbook.xml", "workbook", MAIN, f"<sheets>{listed}</sheets>")
        links = "".join(
            f'<Relationship Id="r{n}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{n}.xml"/>'
            for n in range(1, len(sheets) + 1)
        )
        write("xl/_rels/workbook.xml.rels", "Relationships", f"{PACKAGE}/relationships", links)
        for n, rows in enumerate(sheets.values(), 1):
            cells = [
                "".join(CELL.format(v) if isinstance(v, str) else f"<c><v>{v}</v></c>" for v in row) for row in rows
            ]
            inner = "".join(f"<row>{row}</row>" for row in cells)
            write(f"xl/worksheets/sheet{n}.xml", "worksheet", MAIN, f"<sheetData>{inner}</sheetData>")
    return content.getvalue()


def test_excel_workbooks_are_read(tmp_path):
    pytest.importorskip("fastexcel")
    pytest.importorskip("pyarrow")
    rows = [(user, item, int(time)) for user, item, time in ROWS]
    content = workbook(first=[HEADER, *rows[:4]], second=[HEADER, *rows[4:]], notes=[("about",)])
    read = table(tmp_path, content)
    assert values(read) == ROWS
    assert "sheet 'first', 'second'" in read.describe()
    assert "not read: sheet 'notes', whose first row is another" in read.describe()
    assert [row[0].rpartition(": ")[2] for row in read.rows([0])][3:5] == [
        "row 5 of sheet 'first'",
        "row 2 of sheet 'second'",
    ]
    assert values(table(tmp_path, zipped(a_xlsx=content))) == ROWS
    refused(tmp_path, zipped(**{"xl/workbook_xml": "<x/>"}), "an Excel workbook that cannot be read")


# ---------------------------------------------------------------- one user per line


def test_lines_of_a_user_and_its_items_are_read_in_their_order(tmp_path):
    text = "A1YJEY40YUW4SE B004ZT0SSG B0020YLEYK 7806397051\nA60XNB876KYML 7806397051 B004ZT0SSG\n"
    for content in (text, text.replace(" ", "\t")):
        read = table(tmp_path, content)
        pairs = values(read)
        assert pairs[:3] == [("A1YJEY40YUW4SE", item, str(n)) for n, item in enumerate(text.split()[1:4])]
        assert len(pairs) == 5
        assert "one user per line" in read.describe()
    assert values(table(tmp_path, "1 1 2 3 4\n2 4 5\n3 2 1 5 7 8 9\n"))[4] == ("2", "4", "0")


def test_pairs_are_users_and_items(tmp_path):
    assert table(tmp_path, "1 1\n1 2\n1 5\n2 2\n2 3\n").names == ["user", "item"]


# ---------------------------------------------------------------- the whole program


def test_what_was_recognised_is_printed_first(tmp_path, capsys):
    ratings = "".join(f"{user}::{10 * user + n}::5::{978300000 + n}\n" for user in range(3) for n in range(4))
    movies = "".join(f"{user * 10 + n}::Amélie {n} (2001)::Drama\n" for user in range(3) for n in range(4))
    (tmp_path / "ratings.dat").write_text(ratings)
    (tmp_path / "movies.dat").write_text(movies, encoding="latin-1")
    flags = ["--dataset", "Small", "--data_dir", str(tmp_path), "--k_core", "1"]
    assert own.main([str(tmp_path / "ratings.dat"), "--item_file", str(tmp_path / "movies.dat"), *flags]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(
        f"{tmp_path / 'ratings.dat'}: 4 columns (user, item, rating, time), separated by ::, 12 l"
    )
    assert shown[1].startswith(
        f"{tmp_path / 'movies.dat'}: 3 columns (item, title, column3), separated by ::, 12 lines"
    )
    texts = (tmp_path / "sequential" / "Small" / "item_text.tsv").read_text()
    assert "Amélie 3 (2001)" in texts
    assert Path(tmp_path / "sequential" / "Small" / "Small.txt").read_text().count("\n") == 3
