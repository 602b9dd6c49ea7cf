"""The file of days: what it must look like, which targets it sets apart, and items of one day in random order."""

import re

import numpy as np
import pytest

from tests.data.test_data import REAL
from utils.data.interactions import Interactions

ITEMS = "0 3 1 4 0 2 5 6\n1 0 2 1 3\n2 6 5\n"
DAYS = "0 0 0 0 7 7 7 9\n1 0 2 2 2\n2 0 0\n"


def write(folder, days=DAYS):
    (folder / "Small.txt").write_text(ITEMS)
    if days is not None:
        (folder / "Small_days.txt").write_text(days)
    return folder / "Small.txt"


def test_targets_of_a_later_day_are_set_apart(tmp_path):
    data = Interactions(write(tmp_path), 50)
    assert data.days.tolist() == [0, 0, 0, 7, 7, 7, 9, 0, 2, 2, 2, 0, 0]
    assert data.is_later_day(data.test()).tolist() == [True, False, False]
    assert data.is_later_day(data.validation()).tolist() == [False, False]
    assert Interactions(data.path, 50, with_days=False).is_later_day(data.test()) is None
    (tmp_path / "Small_days.txt").unlink()
    assert Interactions(data.path, 50).days is None


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ("", "empty; one line per user is expected"),
        (DAYS.replace("9", "x"), "line 1: 'x' is not an id or a day; write whole numbers"),
        (DAYS.replace("7 9", "7 9.5"), "line 1: '9.5' is not an id or a day"),
        (DAYS.replace("0 2 2", "0 -2 2"), "line 2: '-2' is not an id or a day"),
        (DAYS.replace("2 0 0\n", ""), "2 users, but 3 in the interaction file; make it together with"),
        (DAYS.replace("1 0 2 2 2", "1 0 2 2"), "line 2: 3 days, but user 1 has 4 items; make it together"),
        (DAYS.replace("1 0 2", "1 3 2"), "line 2: day 2 after day 3, but items are oldest first; make it together"),
        (DAYS.replace("2 0 0", "3 0 0"), "line 3: user 3 where 2 belongs"),
    ],
)
def test_days_that_do_not_match_are_refused_by_name(tmp_path, days, message):
    path = write(tmp_path, days)
    with pytest.raises(ValueError, match=re.escape(f"{path.with_name('Small_days.txt')}: {message}")):
        Interactions(path, 50)


def test_only_trained_items_of_one_day_change_their_order(tmp_path):
    data = Interactions(write(tmp_path), 6)  # the first item of user 0 is in no history
    orders = {tuple(data.shuffle_ties(np.random.default_rng(seed)).items) for seed in range(200)}
    # Of user 0, items 1 and 4 of day 0, and 0 and 2 of day 7; user 1 has one item of day 2 to train on
    rest = (6, 0, 2, 1, 3, 6, 5)
    expected = {(3, *first, *second, 5, *rest) for first in ((1, 4), (4, 1)) for second in ((0, 2), (2, 0))}
    assert orders == expected
    assert data.items.tolist() == [3, 1, 4, 0, 2, 5, 6, 0, 2, 1, 3, 6, 5]


SHARES = {"Beauty": 0.435, "Toys_and_Games": 0.490, "Sports_and_Outdoors": 0.451}  # of test targets that are tied


@pytest.mark.parametrize(("name", "share"), SHARES.items())
def test_ties_of_the_real_data(name, share):
    if not (REAL / name / f"{name}_days.txt").is_file():
        pytest.skip("needs the real data in ../shared/data")
    data = Interactions(REAL / name / f"{name}.txt", 50)
    assert np.mean(~data.is_later_day(data.test())) == pytest.approx(share, abs=0.001)
    shuffled = data.shuffle_ties(np.random.default_rng(0))
    np.testing.assert_array_equal(data.targets(data.test()), shuffled.targets(data.test()))
    np.testing.assert_array_equal(data.targets(data.validation()), shuffled.targets(data.validation()))
    user = np.repeat(np.arange(data.n_users), data.start + data.n_kept - data.full_start)
    by_day = [one.items[np.lexsort((one.items, one.days, user))] for one in (data, shuffled)]
    np.testing.assert_array_equal(*by_day)
