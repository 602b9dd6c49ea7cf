"""What `preprocess.own` makes of the values of a table: ids, times, and those that say nothing."""

import numpy as np

from preprocess.raw.interactions import RawInteractions
from preprocess.raw.summary import WIDTH, Summary, tied_share


def test_summary_is_aligned_and_fits_a_terminal():
    summary = Summary("a.txt")
    summary.add("lines read", 1_234_567)
    summary.add_passed_over("no user", 12, "first at line 7: 'NA', and a remark that is far too long for one line " * 2)
    summary.add_passed_over("no item", 0)
    summary.add_matched("items with a title", 3, 7)
    summary.warn("word " * 40)
    lines = summary.render("python -m x").splitlines()
    assert lines[:3] == ["a.txt", "lines read            1,234,567", lines[2]]
    assert lines[2].startswith("passed over: no user         12  first at")
    assert {lines[n].index("far") > 33 for n in (2,)} == {True}
    assert lines[3].startswith(" " * 33)
    assert "no item" not in "".join(lines)
    assert "items with a title       3 of 7" in lines
    assert lines[-1] == "next: python -m x"
    assert max(map(len, lines)) <= WIDTH


def test_share_of_ties_counts_neighbours_of_one_user():
    columns = [np.array(values) for values in ([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 0, 1], [5, 5, 6, 6, 6, 7])]
    assert tied_share(RawInteractions(*columns, ["a", "b"], ["c", "d", "e", "f"])) == 2 / 4
