"""What `preprocess.own` makes of the values of a table: ids, times, and those that say nothing."""

import json

import numpy as np
import pytest

from preprocess import own
from preprocess.raw.interactions import RawInteractions
from preprocess.raw.summary import Summary, tied_share
from preprocess.raw.time_column import TimeColumn, UnreadableTimeError
from preprocess.raw.time_forms import interpret_times
from utils.cli.layout import SCREEN_WIDTH

ITEMS = "abcd"


def convert(root, lines, *flags, header="user,item,time"):
    (root / "table.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    settings = ["--dataset", "X", "--data_dir", str(root / "data"), "--k_core", "1", "--overwrite"]
    return own.main([str(root / "table.csv"), *settings, *flags])


def sequences(root):
    """Return the items of each user, oldest first, by ids."""
    folder = root / "data" / "sequential" / "X"
    users, items = (
        [line.partition(",")[2] for line in (folder / f"{kind}_id_mapping.csv").read_text().splitlines()[1:]]
        for kind in "ui"
    )
    rows = [[int(word) for word in line.split()] for line in (folder / "X.txt").read_text().splitlines()]
    return {users[user]: [items[item] for item in row] for user, *row in rows}


def days(root):
    """Return the days of the first user since their first one; None without a file of days."""
    path = root / "data" / "sequential" / "X" / "X_days.txt"
    return [int(word) for word in path.read_text().splitlines()[0].split()[1:]] if path.exists() else None


def order_of(root, times, *flags, separator=","):
    """Convert items a, b, … of one user, shuffled in the file, at times that should ascend; return their order."""
    rows = list(zip(ITEMS, times, strict=False))
    for shuffled in (rows[::-1], rows[1:] + rows[:1]):
        lines = [separator.join(("u", item, time)) for item, time in shuffled]
        assert convert(root, lines, *flags, header=separator.join(("user", "item", "time"))) == 0
        yield "".join(sequences(root)["u"])


def assert_ascending(root, times, *flags, separator=","):
    assert set(order_of(root, times, *flags, separator=separator)) == {ITEMS[: len(times)]}


def assert_refused(root, capsys, status, *words):
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (root / "data").exists()


# ---------------------------------------------------------------- values that say nothing


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "nan", "NULL", "null", "None", r"\N", "", "  ", "#N/A", "<NA>"])
@pytest.mark.parametrize(("position", "kind"), [(0, "user"), (1, "item"), (2, "time")])
def test_lines_without_a_value_are_passed_over_and_counted(tmp_path, capsys, word, position, kind):
    lines = ["u,a,1", "u,b,2", "v,a,1", "v,b,2"]
    odd = ["w", "c", "3"]
    odd[position] = word
    assert convert(tmp_path, [lines[0], ",".join(odd), *lines[1:]]) == 0
    assert sequences(tmp_path) == {"u": ["a", "b"], "v": ["a", "b"]}
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over"))
    expected = repr(word) if word.strip() else "empty"
    assert row.split()[2:] == ["no", kind, "1", expected, "1;", "first", "in", "line", *row.split()[10:]]
    assert row.split()[10].rstrip(";") == "3"
    statistics = json.loads((tmp_path / "data/sequential/X/statistics.json").read_text())
    assert statistics["passed_over"] == {f"no {kind}": 1}


def test_several_missing_values_of_a_line_count_once(tmp_path, capsys):
    assert convert(tmp_path, ["NA,NA,NA", "u,a,1", "u,NULL,", "u,b,", "u,b,2", ",b,0000-00-00"]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split()[2:5] for line in shown if line.startswith("passed over")]
    assert rows == [["no", "user", "2"], ["no", "item", "1"], ["no", "time", "1"]]
    assert [line.split()[2] for line in shown if line.startswith("lines read")] == ["6"]
    assert sequences(tmp_path) == {"u": ["a", "b"]}


def test_missing_times_among_dates_are_passed_over(tmp_path):
    lines = ["u,x,0000-00-00 00:00:00", "u,a,2024-01-01", "u,x,NaT", "u,b,02/01/2024", "u,c,31/01/2024"]
    assert convert(tmp_path, lines) == 0
    assert sequences(tmp_path) == {"u": ["a", "b", "c"]}


def test_flag_keeps_a_user_of_such_a_name(tmp_path, capsys):
    lines = ["NA,a,1", "None,b,2", ",c,3", "u,a,1"]
    assert convert(tmp_path, lines, "--missing", "") == 0
    assert sequences(tmp_path) == {"NA": ["a"], "None": ["b"], "u": ["a"]}
    assert convert(tmp_path, lines, "--missing", "none,u") == 0
    assert sequences(tmp_path) == {"NA": ["a"]}
    capsys.readouterr()
    assert convert(tmp_path, lines) == 0
    assert "--missing '' keeps such ids" in " ".join(capsys.readouterr().out.split())


def test_table_without_any_complete_line_is_refused(tmp_path, capsys):
    status = convert(tmp_path, ["NA,a,1", "NA,b,2", "u,,3"])
    assert_refused(tmp_path, capsys, status, "no user in 2 of 3 lines", "'NA' 2", "--user", "--missing")


# ---------------------------------------------------------------- numbers as times


NANOSECONDS = 1_704_067_200_000_000_000


@pytest.mark.parametrize(
    "times",
    [
        (NANOSECONDS, NANOSECONDS + 1, NANOSECONDS + 2, "1.704067200000000003e18"),
        (NANOSECONDS, f"{NANOSECONDS + 1}.0", NANOSECONDS + 2, NANOSECONDS + 3),
        (f"{NANOSECONDS}.0", f"{NANOSECONDS + 1}.0", f"{NANOSECONDS + 2}.0", f"{NANOSECONDS + 3}.0"),
        (NANOSECONDS, f"{NANOSECONDS}.5", NANOSECONDS + 1, NANOSECONDS + 2),
        (-(2**63) + 1, 2**53, 2**53 + 1, 2**63 - 1),
        (-2, -1.5, 0, 3),
        ("-1", "+2", "0003", "4."),
        ("1e-3", ".5", "1.5E0", "2e+00"),
        ("1704067200.1234561", "1704067200.1234562", 1704067201, 1704067202),
        ("0.30000000000000000", "0.30000000000000004", "4503.2", "99999999"),
    ],
    ids=str,
)
def test_numbers_are_ordered_exactly(tmp_path, times):
    assert_ascending(tmp_path, [str(time) for time in times])


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("decimals", ["", ".0", ".5"])
def test_units_since_1970_are_recognised(tmp_path, capsys, per_second, decimals):
    noon = 20_000 * 86_400 + 43_200
    times = [f"{second * per_second}{decimals}" for second in (noon, noon + 43_199, noon + 43_200, noon + 40 * 86_400)]
    assert_ascending(tmp_path, times)
    if (per_second, decimals) == (10**9, ".5"):
        assert "numbers of more digits than 64 bits hold" in capsys.readouterr().out
        return
    assert days(tmp_path) == [0, 0, 1, 40]
    unit = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}[per_second]
    assert f"{unit} since 1970" in capsys.readouterr().out


def test_seconds_among_milliseconds_are_refused(tmp_path, capsys):
    lines = [f"u,{item},{1_704_067_200_000 + item}" for item in range(12)]
    status = convert(tmp_path, [*lines, "u,x,1704067300"])
    assert_refused(tmp_path, capsys, status, "line 14: '1704067300' counts seconds", "others count milliseconds")
    assert convert(tmp_path, [*lines, "u,x,1704067300"], "--time_format", "number") == 0
    assert sequences(tmp_path)["u"][0] == "x"


def test_odd_times_among_known_years_are_told(tmp_path, capsys):
    lines = [f"u,{item},{1_704_067_200 + item}" for item in range(20)]
    assert convert(tmp_path, [*lines, "u,x,-1"]) == 0
    assert sequences(tmp_path)["u"][0] == "x"
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 1 of 21 times are not of the years 1980 to 2099 and sort as they stand; " in shown
    assert "line 22: '-1'" in shown


@pytest.mark.parametrize("number", ["1.70407E+12", "1,38767E+09", "1.7e3"])
def test_scientific_notation_with_lost_digits_is_told(tmp_path, capsys, number):
    assert convert(tmp_path, [f"u;{item};{number}" for item in ITEMS], header="user;item;time") == 0
    assert sequences(tmp_path) == {"u": list(ITEMS)}
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 4 of 4 times are in scientific notation with fewer digits" in shown
    assert f"line 2: '{number}'" in shown
    assert "100% of a user's neighbouring interactions have the same time; their order is that of the lines" in shown


def test_scientific_notation_with_all_digits_is_exact(tmp_path, capsys):
    assert_ascending(tmp_path, [f"1.70406720000{n}e+12" for n in range(4)])
    assert "warning" not in capsys.readouterr().out


def test_decimal_commas_and_excel_days_are_read(tmp_path, capsys):
    assert_ascending(tmp_path, ["45322,04", "45322,5", "45323", "45324,0416666667"], separator=";")
    assert days(tmp_path) == [0, 0, 1, 2]
    assert "days as Excel counts them" in capsys.readouterr().out
    assert_ascending(tmp_path, ["45322", "45323", "45330"], "--time_format", "excel")
    assert days(tmp_path) == [0, 1, 8]
    assert_ascending(tmp_path, ["45322", "45323", "45330"])
    assert days(tmp_path) is None
    assert_ascending(tmp_path, ["0,5", "1", "1,25", "12,5"], separator=";")


@pytest.mark.parametrize(
    ("times", "line"),
    [
        (("999", "1,000", "1,001"), "line 3: '1,000' may be"),
        (("999", "1.000", "1.001"), "line 3: '1.000' may be"),
        (("1,5", "1.5", "2"), "line 3: '1.5' has a point"),
    ],
)
def test_marks_between_thousands_are_refused(tmp_path, capsys, times, line):
    lines = [f"u;{item};{time}" for item, time in zip(ITEMS, times, strict=False)]
    assert_refused(tmp_path, capsys, convert(tmp_path, lines, header="user;item;time"), line)


@pytest.mark.parametrize("time", ["9223372036854775808", "1e30", "1_000", "inf", "12:30", "1,000,000", "Q1"])
def test_what_is_no_time_is_refused(tmp_path, capsys, time):
    status = convert(tmp_path, ["u;a;1", f"u;b;{time}"], header="user;item;time")
    assert_refused(tmp_path, capsys, status, f"line 3: '{time}' ")


# ---------------------------------------------------------------- dates


@pytest.mark.parametrize(
    ("times", "form"),
    [
        (("20231225", "20240101", "20240131", "20240203"), "the year first"),
        (("25122023", "01012024", "31012024", "03022024"), "the day first"),
        (("25122023", "1012024", "31012024", "3022024"), "the day first"),
        (("12252023", "01012024", "01312024", "02032024"), "the month first"),
        (("202312252359", "202401010000", "202401312330", "202402030000"), "the year first"),
        (("20231225235959", "20240101000000", "20240131233059", "20240203000000"), "the year first"),
        (("25122023235959", "01012024000000", "31012024233059", "03022024000000"), "the day first"),
        (("251220232359", "010120240000", "310120242330", "030220240000"), "the day first"),
        (("25/12/2023", "1/1/2024", "31/01/2024 8:26", "03/02/2024 08:26:01"), "the day first"),
        (("12/25/2023", "1/1/2024", "01/31/2024 8:26", "02/03/2024 8:26 PM"), "the month first"),
        (("25-12-2023", "01-01-2024", "31-01-2024", "03-02-2024"), "the day first"),
        (("25.12.2023", "01.01.2024", "31.01.2024", "03.02.2024"), "the day first"),
        (("12/25/23", "1/1/24 0:00", "1/31/24", "2/3/24"), "the month first"),
        (("2023/12/25", "2024/1/1", "2024/01/31", "2024/02/03"), "dates"),
        (("25 Dec 2023", "1 January 2024", "31-Jan-2024", "3 Feb 2024"), "dates"),
        (("12 25, 2023", "01 1, 2024", "01 31, 2024", "02 3, 2024"), "the month first"),
        (("Dec 25, 2023", "Jan 1, 2024", "Jan 31, 2024 11:00 PM", "February 3, 2024"), "dates"),
        (
            ("2023-12-25 10:00:00 UTC", "2024-01-01T00:00Z", "2024-01-31 23:59:59+0000", "2024-02-03 00:30 +00:00"),
            "dates",
        ),
        (
            (
                "Mon Dec 25 10:00:00 +0000 2023",
                "Mon Jan 01 00:00:00 +0000 2024",
                "Wed Jan 31 2024 10:00:00 GMT+0100 (CET)",
                "Sat, 03 Feb 2024 00:00:00 GMT",
            ),
            "dates",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_dates_of_many_forms_are_read(tmp_path, capsys, times, form):
    assert_ascending(tmp_path, times, separator="\t")
    assert days(tmp_path) == [0, 7, 37, 40]
    assert form in capsys.readouterr().out


def test_dates_as_numbers_are_recognised_among_thousands(tmp_path, capsys):
    lines = [f"u{n // 28},i{n % 28},{1 + n % 28:02}{1 + n // 28 % 12:02}{2000 + n // 336}" for n in range(3360)]
    assert convert(tmp_path, lines[::-1]) == 0
    assert "the day first" in capsys.readouterr().out
    assert days(tmp_path) == list(range(28))
    status = convert(tmp_path, [*lines, "u,i,01312001"])
    assert status == 2
    assert "line 3362: '01312001' is no date with the day first" in capsys.readouterr().err


def test_dotted_dates_have_the_day_first(tmp_path):
    assert_ascending(tmp_path, ["02.12.2023", "01.01.2024", "11.02.2024", "03.03.2024"])


@pytest.mark.parametrize(
    ("times", "hints"),
    [
        (("01022024", "03042024", "05062024"), ("2024-02-01 (the day first) or 2024-01-02 (the month first)",)),
        (("01/02/2024", "03/04/2024", "05/06/2024"), ("2024-02-01 (the day first) or 2024-01-02",)),
        (("1-2-2024 10:00", "3-4-2024 11:00"), ("2024-02-01 (the day first) or 2024-01-02",)),
        (("010224", "030424", "311224"), ("two digits for the year", "day_first, year_first", "number")),
        (("240131", "240229", "241231"), ("two digits for the year", "year_first")),
        (("10224", "30424", "311224"), ("two digits for the year", "day_first")),
        (("311224101500", "010125101500"), ("two digits for the year", "day_first")),
    ],
)
def test_dates_that_may_be_read_in_two_ways_are_refused(tmp_path, capsys, times, hints):
    lines = [f"u,{item},{time}" for item, time in zip(ITEMS, times, strict=False)]
    assert_refused(tmp_path, capsys, convert(tmp_path, lines), "line 2: ", "--time_format", *hints)


@pytest.mark.parametrize(
    ("times", "flag"),
    [
        (("02012024", "01022024", "3022024"), "day_first"),
        (("01022024", "02012024", "2032024"), "month_first"),
        (("02/01/2024", "01/02/2024", "03/02/2024"), "day_first"),
        (("01/02/2024", "02/01/2024", "02/03/2024"), "month_first"),
        (("020124", "010224", "30224"), "day_first"),
        (("020124", "010224", "30224"), "%d%m%y"),
        (("240102", "240201", "240203"), "year_first"),
        (("240102", "240201", "240203"), "%y%m%d"),
        (("02|01|2024 10h", "01|02|2024 09h", "03|02|2024 08h"), "%d|%m|%Y %Hh"),
    ],
)
def test_flag_says_how_dates_are_read(tmp_path, times, flag):
    assert_ascending(tmp_path, times, "--time_format", flag)
    assert days(tmp_path) == [0, 30, 32]


@pytest.mark.parametrize(
    ("times", "line"),
    [
        (
            ("31/12/2023", "01/13/2024", "05/01/2024", "06/01/2024"),
            "line 3: '01/13/2024' is no date with the day first",
        ),
        ((*["31122023"] * 10, "01132024"), "line 12: '01132024' is no date with the day first"),
        (("2024-01-31", "1706700000"), "line 3: '1706700000' among dates"),
        (("2024-01-31", "2024-02-30"), "line 3: '2024-02-30' is neither"),
        (("2024-01-31 10:00:00", "2024-01-31 10:00:00 Nowhere/Town"), "line 3: '2024-01-31 10:00:00 Nowhere/Town' is"),
    ],
)
def test_date_unlike_the_others_is_refused(tmp_path, capsys, times, line):
    lines = [f"u,{item},{time}" for item, time in enumerate(times)]
    assert_refused(tmp_path, capsys, convert(tmp_path, lines), line)


@pytest.mark.parametrize(
    ("flag", "time", "problem"),
    [
        ("day_first", "2024-13-01", "is neither"),
        ("month_first", "31012024", "is no date with the month first"),
        ("excel", "2024-01-31", "is no number"),
        ("number", "2024-01-31", "is no number"),
        ("%d.%m.%Y", "2024-01-31", "is not as --time_format %d.%m.%Y"),
        ("dd.mm.yyyy", "31.01.2024", "--time_format"),
    ],
)
def test_time_that_contradicts_the_flag_is_refused(tmp_path, capsys, flag, time, problem):
    try:
        status = convert(tmp_path, [f"u,a,{time}"], "--time_format", flag)
    except SystemExit as stop:  # an invalid flag
        status = stop.code
    assert_refused(tmp_path, capsys, status, problem)


def test_dates_are_exact_to_the_nanosecond(tmp_path):
    assert_ascending(tmp_path, [f"2024-01-31 10:00:00.12345678{n}" for n in range(4)])
    assert_ascending(tmp_path, ["0001-01-01", "1969-12-31 23:59:59.999999", "2024-01-31", "9999-12-31"])


def test_zones_are_followed_and_dates_without_one_are_told(tmp_path, capsys):
    times = ["2024-01-31T10:00:00+02:00", "2024-01-31 09:00:00", "2024-01-31T05:00:00-05:00", "2024-01-31T10:00:01Z"]
    assert_ascending(tmp_path, times)
    assert "warning: 1 of 4 times name no time zone and are taken as UTC" in capsys.readouterr().out


def test_counters_are_no_dates(tmp_path, capsys):
    """Numbers of as many digits as dates, as sessions and line numbers have them."""
    for times in (range(1_000_000, 1_000_040), range(0, 310_000, 9_999), range(10_101, 10_140), (201_512, 201_601)):
        lines = [f"u,{position},{time}" for position, time in enumerate(times)]
        assert convert(tmp_path, lines[::-1]) == 0
        assert sequences(tmp_path)["u"] == [str(position) for position in range(len(lines))]
        assert days(tmp_path) is None


@pytest.mark.parametrize(
    "texts",
    [
        ["5", "-7", "+3", "007"],
        ["1.5", "2.5", "-3.0", "-0.5"],
        ["1.25", "2.00", "3.10"],
        ["1.000", "2.000"],
        ["5.", "6."],
        ["1.5", "2.55"],
        ["1.125", "12"],
        ["1.2.3", "45"],
        ["1_0", "2"],
        ["-.5", ".5"],
        ["-", "1"],
        ["2024-01-31", "2024-02-01 10:00", "2024-02-01T10:00:01", "2024-02-01 10:00:01.5"],
        ["2024-02-01 10:00:01.123456", "2024-02-01 10:00:01.1234567"],
        ["2024-01-31T10:00:00Z", "2024-02-01T10:00:00.25Z"],
        ["2024-01-31 10:00:00 UTC", "2024-02-01 10:00:00 UTC"],
        ["2024-01-31T10:00:00+00:00", "2024-02-01T10:00:00+00:00"],
        ["2024-01-31Z", "2024-02-01Z"],
        ["2024-13-31", "2024-02-01"],
        ["2024-01-31 99:00:00", "2024-02-01 10:00:00"],
        ["2024-01--1", "2024-02-01"],
        ["20240131", "20240201"],
        ["31/01/2024", "01/02/2024"],
    ],
    ids=str,
)
def test_reading_many_times_at_once_equals_reading_each(texts):
    def interpret(texts):
        column = TimeColumn(frozenset())
        try:
            column.extend(texts)
            times = interpret_times(column)
        except UnreadableTimeError as error:
            return error.row, error.problem
        return (times.values / (times.units_per_day or 1)).tolist(), times.form, times.warnings

    assert interpret([*texts, ""]) == interpret(texts)  # beside a value that is none, each is read by itself


# ---------------------------------------------------------------- order


def test_order_of_lines_replaces_times(tmp_path, capsys):
    lines = ["u,b", "v,a", "u,a", "u,c", "v,b", "u,a"]
    assert_refused(
        tmp_path, capsys, convert(tmp_path, lines, header="user,item"), "line 1: no column time", "--order_of_lines"
    )
    assert convert(tmp_path, lines, "--order_of_lines", header="user,item") == 0
    assert sequences(tmp_path) == {"u": list("baca"), "v": list("ab")}
    with_times = [f"{line},{-position}" for position, line in enumerate(lines)]
    assert convert(tmp_path, with_times, "--order_of_lines") == 0
    assert sequences(tmp_path) == {"u": list("baca"), "v": list("ab")}
    assert "the order is that of the lines" in capsys.readouterr().out


@pytest.mark.parametrize(("n_tied", "warned"), [(2, False), (3, True)])
def test_many_equal_times_are_told(tmp_path, capsys, n_tied, warned):
    times = [max(position, n_tied) for position in range(11)]
    assert convert(tmp_path, [f"u,{position},{time}" for position, time in enumerate(times)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"equal times {n_tied / 10:.1%} of a user's neighbouring interactions" in shown
    assert ("their order is that of the lines" in shown) == warned


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("100.0", "101.0", "9007199254740993"), ("100", "101", "9007199254740993")),
        (("100.00", "101", "100"), ("100", "101", "100")),
        (("007", "7", "7.0"), ("007", "7", "7")),
        (("007", "7", "x"), ("007", "7", "x")),
        (("1.0", "2.5", "3"), ("1.0", "2.5", "3")),
        (("1.0", "2.0", "v3"), ("1.0", "2.0", "v3")),
        (("1e+05", "12", "100000"), ("100000", "12", "100000")),
        (("1.23456789012E+11", "5", "6"), ("123456789012", "5", "6")),
        (("1E5", "2e7", "7f3"), ("1E5", "2e7", "7f3")),
        (("12345678901234567890", "12345678901234567891", "3"), ("12345678901234567890", "12345678901234567891", "3")),
        (("1.000", "1", "2"), ("1.000", "1", "2")),
        (("12,0", "13,0", "12"), ("12", "13", "12")),
        (("-1.0", "-1", "12.0"), ("-1", "-1", "12")),
    ],
)
@pytest.mark.parametrize("kind", ["user", "item"])
def test_ids_that_are_numbers_keep_their_meaning(tmp_path, written, meant, kind):
    rows = [(("u", text) if kind == "item" else (text, "a")) for text in written]
    lines = [f" {user} ;{item};{time}" for time, (user, item) in enumerate(rows)]
    assert convert(tmp_path, lines, header="user;item;time") == 0
    found = sequences(tmp_path)
    if kind == "item":
        assert found == {"u": list(meant)}
    else:
        assert found == {user: ["a"] * meant.count(user) for user in meant}


@pytest.mark.parametrize("text", ["1.23E+11", "1.2345678901234567e+17", "9.78032E+12", "1E+05", "1.23E+05", "1,23E+11"])
@pytest.mark.parametrize("others", [("5", "6"), ("080442957X", "B00A")])
@pytest.mark.parametrize("kind", ["user", "item"])
def test_rounded_ids_are_refused(tmp_path, capsys, text, others, kind):
    ids = [*others, text]
    lines = [f"{name};a;{time}" if kind == "user" else f"u;{name};{time}" for time, name in enumerate(ids)]
    status = convert(tmp_path, lines, header="user;item;time")
    assert_refused(tmp_path, capsys, status, f"line 4: {kind} '{text}' has lost digits")


@pytest.mark.parametrize(
    "ids",
    [
        ("9007199254740996.0", "9007199254740998.0", "5.0"),
        ("1234567890123450000", "1234567890123460000", "1234567890123470000"),
    ],
)
def test_ids_that_look_rounded_are_told(tmp_path, capsys, ids):
    assert convert(tmp_path, [f"{user},a,{time}" for time, user in enumerate(ids)]) == 0
    assert "warning: users: " in capsys.readouterr().out


# ---------------------------------------------------------------- the table at the end


def test_summary_is_aligned_and_fits_a_terminal():
    summary = Summary("a.txt")
    summary.add("lines read", 1_234_567)
    summary.add_passed_over("no user", 12, "first at line 7: 'NA', and a remark that is far too long for one line " * 2)
    summary.add_passed_over("no item", 0)
    summary.add_matched("items with a title", 3, 7)
    summary.warn("word " * 40)
    lines = summary.render("python -m x").splitlines()
    assert lines[:2] == ["a.txt", "lines read            1,234,567"]
    assert lines[2].startswith("passed over: no user         12  first at")
    assert lines[3].startswith(" " * 33)
    assert "no item" not in "".join(lines)
    assert "items with a title       3 of 7" in lines
    assert lines[-1] == "next: python -m x"
    assert max(map(len, lines)) <= SCREEN_WIDTH


def test_table_counts_every_line_and_names_the_next_command(tmp_path, capsys):
    lines = ["u,a,1", "u,b,2", "u,b,2", "v,a,1", "v,b,2", "w,c,3", "NA,a,1"]
    assert convert(tmp_path, lines, "--k_core", "2") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"next: python -m preprocess.tables --dataset X --data_dir {tmp_path / 'data'}"
    text = " ".join(" ".join(shown).split())
    for words in ("lines read 7 ", "no user 1 ", "repeated 1 ", "k-core 1 ", "users 2 ", "items 2 ", "interactions 4 "):
        assert words in text


def test_share_of_ties_counts_neighbours_of_one_user():
    columns = [np.array(values) for values in ([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 1], [5, 5, 6, 6, 6, 7])]
    assert tied_share(RawInteractions(*columns, ["a", "b"], ["c", "d", "e", "f"])) == 2 / 4
