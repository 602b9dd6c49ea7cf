"""Tables with an oddity are read rightly with a word about it, or refused in a line that leads on."""

import json

import pytest

from preprocess import own

ROWS = [(u, i, str(1_300_000_000 + 60 * n)) for n, (u, i) in enumerate(["ab", "ac", "bb", "cd", "ca", "db"])]
HISTORIES = {"a": ["b", "c"], "b": ["b"], "c": ["d", "a"], "d": ["b"]}


def lines(rows, header="user,item,time"):
    return "".join(f"{line}\n" for line in [*([header] if header else []), *map(",".join, rows)])


def convert(folder, content, *flags, **others):
    """Run the program on a table and return its exit status."""
    path = folder / "table.any"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, text in others.items():
        (folder / name).write_text(text)
    return own.main([str(path), "--dataset", "X", "--data_dir", str(folder), "--k_core", "1", *flags])


def histories(folder):
    """Return the items of each user that were written, by their raw ids."""
    made = folder / "sequential" / "X"
    users, items = (
        [line.split(",", 1)[1] for line in (made / f"{name}_id_mapping.csv").read_text().splitlines()[1:]]
        for name in "ui"
    )
    rows = [list(map(int, line.split())) for line in (made / "X.txt").read_text().splitlines()]
    return {users[user]: [items[item] for item in row] for user, *row in rows}


def read(folder, capsys, content, *flags):
    assert convert(folder, content, *flags) == 0, capsys.readouterr().err
    return histories(folder), capsys.readouterr().out


def refused(folder, capsys, content, *flags, **others):
    """Return the one line that says why a table is refused."""
    assert convert(folder, content, *flags, **others) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert not (folder / "sequential").exists()
    return error


# ---------------------------------------------------------------- several ids in one field


def test_lists_are_no_ids(tmp_path, capsys):
    as_json = "".join(json.dumps({"user": u, "item": [i, "x"], "time": t}) + "\n" for u, i, t in ROWS)
    assert "one line per item" in refused(tmp_path, capsys, as_json)
    as_object = "".join(json.dumps({"user": {"a": u}, "item": i, "time": t}) + "\n" for u, i, t in ROWS)
    assert ": user user is" in refused(tmp_path, capsys, as_object)
    as_text = "user,item\n" + "".join(f"{user},\"['{item}', 'x']\"\n" for user, item, _ in ROWS)
    assert "explode" in refused(tmp_path, capsys, as_text, "--order_of_lines")


def test_lists_in_parquet_are_no_ids_and_bytes_are_texts(tmp_path, capsys):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    users, items, times = map(list, zip(*ROWS, strict=True))
    parquet.write_table(pyarrow.table({"user": users, "item": [[item] for item in items]}), tmp_path / "lists")
    assert "one line per item" in refused(tmp_path, capsys, (tmp_path / "lists").read_bytes(), "--order_of_lines")
    encoded = {"user": [user.encode() for user in users], "item": items, "time": times}
    parquet.write_table(pyarrow.table(encoded), tmp_path / "bytes")
    assert read(tmp_path, capsys, (tmp_path / "bytes").read_bytes())[0] == HISTORIES


def test_words_that_look_like_several_ids_are_told(tmp_path, capsys):
    impressions = "".join(f"{user}\tN{n} N{n + 7}\t{time}\n" for n, (user, _, time) in enumerate(ROWS))
    _, told = read(tmp_path, capsys, "user\titem\ttime\n" + impressions)
    assert "'N0 N7'" in told
    titles = "".join(f"{user}\tBlue lamp {item}\t{time}\n" for user, item, time in ROWS)
    assert "several" not in read(tmp_path, capsys, "user\titem\ttime\n" + titles, "--overwrite")[1]


def test_ids_in_single_quotes_lose_them(tmp_path, capsys):
    assert read(tmp_path, capsys, lines([(f"'{u}'", f"'{i}'", t) for u, i, t in ROWS]))[0] == HISTORIES
    some = [("'t" if u == "a" else u, i, t) for u, i, t in ROWS]
    assert "%27t" in read(tmp_path, capsys, lines(some), "--overwrite")[0]


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("flags", [(), ("--order_of_lines",)])
def test_repeated_headers_of_joined_files_are_passed_over_and_counted(tmp_path, capsys, mark, flags):
    made, told = read(tmp_path, capsys, mark + lines(ROWS[:3]) + mark + lines(ROWS[3:]), *flags)
    assert made == HISTORIES
    assert "passed over: header repeated" in told


def test_byte_order_marks_in_the_middle_are_no_text(tmp_path, capsys):
    assert read(tmp_path, capsys, "\ufeff\ufeff" + lines(ROWS[:3]) + "\ufeff" + lines(ROWS[3:], ""))[0] == HISTORIES


def test_records_within_an_unclosed_quotation_mark_are_not_swallowed(tmp_path, capsys):
    rows = [(*row, title) for row, title in zip(ROWS, ['"Lamp', "x", "y", "z", 'Cup"', "w"], strict=True)]
    assert "line 2" in refused(tmp_path, capsys, lines(rows, "user,item,time,title"))
    rows = [(*row, '"Lamp\n\nred, or\nblue, or green"') for row in ROWS]
    assert read(tmp_path, capsys, lines(rows, "user,item,time,title"))[0] == HISTORIES


def test_users_without_items_and_blanks_at_the_ends_of_lines(tmp_path, capsys):
    made, told = read(tmp_path, capsys, "1 11 12 13 \n2 12 \n3\n4 13 11 \n")
    assert made == {"1": ["11", "12", "13"], "2": ["12"], "4": ["13", "11"]}
    assert "no item" in told


def test_lines_of_several_lengths_without_a_header_ask_for_no_names(tmp_path, capsys):
    error = refused(tmp_path, capsys, "1: 11, 12, 13\n2: 12\n4: 13, 11\n")
    assert "--columns" not in error
    assert "user item item" in error


def test_header_below_a_title_is_pointed_out(tmp_path, capsys):
    error = refused(tmp_path, capsys, "Sales report,,\nmade,today,\n\n" + lines(ROWS))
    assert "line 4" in error
    assert "above" in error


def test_header_that_is_one_name_short_leads_to_columns(tmp_path, capsys):
    text = "".join(f"r{n} {' '.join(row)}\n" for n, row in enumerate(ROWS))
    assert "--columns" in refused(tmp_path, capsys, "user item time\n" + text)
    assert read(tmp_path, capsys, "user item time\n" + text, "--columns", "row,user,item,time")[0] == HISTORIES


def test_empty_files_are_called_empty(tmp_path, capsys):
    for content in ("", "\n\n", "\ufeff"):
        assert ": empty;" in refused(tmp_path, capsys, content)


def test_folders_are_not_to_be_removed(tmp_path, capsys):
    assert own.main([str(tmp_path), "--dataset", "X", "--data_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "folder" in error
    assert "remove" not in error


# ---------------------------------------------------------------- columns


def test_columns_of_ids_go_before_those_of_names(tmp_path, capsys):
    named = [("Jane", u, "Lamp", i, t) for u, i, t in ROWS]
    made, told = read(tmp_path, capsys, lines(named, "user,user_id,item,item_id,time"))
    assert made == HISTORIES
    assert "--user user" in told
    assert "--item item" in told


def test_two_columns_of_one_name_are_refused(tmp_path, capsys):
    doubled = [(u, i, i, t) for u, i, t in ROWS]
    assert "2 columns" in refused(tmp_path, capsys, lines(doubled, "user,item,Item,time"))
    assert "2 columns" in refused(tmp_path, capsys, lines(doubled, ""), "--columns", "user,item,item,time")


def test_user_and_item_are_different_columns(tmp_path, capsys):
    assert "--user" in refused(tmp_path, capsys, lines(ROWS), "--user", "item")


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("form", ["2024-01-31 {}-{}", "2024-01-31T{}.{}.00", "2024-01-31 {}:{}-0"])
def test_clocks_with_other_marks_are_no_dates(tmp_path, capsys, form):
    rows = [(u, i, form.format(10, 59 - n)) for n, (u, i, _) in enumerate(ROWS)]
    assert "neither a number nor a date" in refused(tmp_path, capsys, lines(rows))


def test_points_in_clocks_keep_the_order(tmp_path, capsys):
    rows = [(u, i, f"2024-01-31 10.{59 - n}") for n, (u, i, _) in enumerate(ROWS)]
    assert read(tmp_path, capsys, lines(rows))[0] == {user: items[::-1] for user, items in HISTORIES.items()}


def test_many_times_outside_the_usual_years_are_told(tmp_path, capsys):
    rows = [(u, i, "0" if n % 3 == 0 else t) for n, (u, i, t) in enumerate(ROWS)]
    assert "2 of 6 times" in read(tmp_path, capsys, lines(rows))[1]


def test_words_for_no_time_lead_to_missing(tmp_path, capsys):
    rows = [*ROWS, ("a", "d", "-")]
    assert "--missing" in refused(tmp_path, capsys, lines(rows))
    assert read(tmp_path, capsys, lines(rows), "--missing=-")[0] == HISTORIES


# ---------------------------------------------------------------- other formats


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("%%MatrixMarket matrix coordinate integer general\n4 4 2\n1 2 5\n2 3 4\n", "Matrix Market"),
        ("+---+---+\n| user | item |\n+---+---+\n| 1 | 2 |\n", "box"),
        (" user | item \n------+------\n 1 | 2\n(1 row)\n", "box"),
        ("CREATE TABLE x (user int);\nINSERT INTO x VALUES (1);\n", "SQL"),
        ("-- MySQL dump 10.13\n--\n", "SQL"),
        ("<table><tr><td>user</td></tr></table>", "HTML"),
        ("@relation x\n@attribute user string\n@data\n1\n", "ARFF"),
        (lines(ROWS) + "\0" * 300, "NUL"),
        (json.dumps({"data": [{"user": 1, "item": 2, "time": 3}], "n": 1}), "one per line"),
        (json.dumps({"user": {"0": 1, "1": 2}, "item": {"0": 3, "1": 4}}), "one per line"),
        (json.dumps({"1": [2, 3], "2": [3, 4]}), "one per line"),
    ],
)
def test_other_formats_are_named(tmp_path, capsys, content, words):
    error = refused(tmp_path, capsys, content)
    assert words in error
    assert "--user" not in error


def test_values_of_mongodb_and_separators_of_hive_are_read(tmp_path, capsys):
    exported = [{"user": {"$oid": u}, "item": i, "time": {"$date": {"$numberLong": t + "000"}}} for u, i, t in ROWS]
    assert read(tmp_path, capsys, "".join(json.dumps(entry) + "\n" for entry in exported))[0] == HISTORIES
    assert read(tmp_path, capsys, lines(ROWS, "").replace(",", "\x01"), "--overwrite")[0] == HISTORIES


def test_check_ins_without_a_time_are_passed_over(tmp_path, capsys):
    visits = [f"{u}1\t2010-10-17T01:48:{n:02}Z\t39.7\t-104.9\t{i}2\n" for n, (u, i, _) in enumerate(ROWS)]
    made, told = read(tmp_path, capsys, "".join([*visits, "a1\t\t0.0\t0.0\t000\n"]))
    assert set(made) == {"a1", "b1", "c1", "d1"}
    assert "no time" in told


def test_lines_of_files_with_carriage_returns_alone_are_counted(tmp_path, capsys):
    assert ", 7 lines" in read(tmp_path, capsys, lines(ROWS).replace("\n", "\r"))[1]


# ---------------------------------------------------------------- items


def test_better_column_of_item_ids_is_told(tmp_path, capsys):
    rows = [(u, str(ord(i)), t) for u, i, t in ROWS]
    items = "id,sku,title\n98,97,A\n99,98,B\n100,99,C\n101,100,D\n"
    assert convert(tmp_path, lines(rows), "--item_file", str(tmp_path / "items"), items=items) == 0
    assert "--item_id_column sku" in capsys.readouterr().out
