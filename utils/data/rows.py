"""Files of one line per user: the user's number, then numbers that belong to it."""

import re
from itertools import islice
from pathlib import Path

import numpy as np

MAX_DIGITS = 9  # of a number
BLOCK_BYTES = 2**22  # of the file, read at a time
N_LAYOUT_LINES = 1000  # by which another layout is recognised
RAW_ID = re.compile(r"[\w.:%-]*\d[\w.:%-]*", re.ASCII)


def read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all users, and how many each user has: int64 (N,) and int64 (n_users,).

    Raises:
        FileNotFoundError: no such file.
        ValueError: naming path and line of what does not follow the format.
    """
    # The quick way knows well-formed files only; the other one says what is wrong, and where
    return _read_blocks(path) or _read_by_line(path)


def _read_blocks(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the same as `read_rows`, of a file that follows the format to the letter.

    Returns:
        int64 (N,) and int64 (n_users,); None of any other file, which `_read_by_line` reads or refuses.
    """
    numbers = []
    lengths = []
    n_users = 0
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            block = _parse_block(b"".join(lines), n_users)
            if block is None:
                return None
            numbers.append(block[0])
            lengths.append(block[1])
            n_users += len(lines)
    return (np.concatenate(numbers), np.concatenate(lengths)) if numbers else None


def _parse_block(block: bytes, first_user: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the numbers of some lines, and how many each has; None where a line does not follow the format."""
    if not block.endswith(b"\n"):
        block += b"\n"
    byte = np.frombuffer(block, np.uint8)
    is_digit = (byte >= ord("0")) & (byte <= ord("9"))
    is_newline = byte == ord("\n")
    if not (is_digit | is_newline | (byte == ord(" "))).all():
        return None
    # A word begins at a digit behind something else, and ends before something else
    bounds = np.flatnonzero(np.diff(is_digit, prepend=False))
    word_start = bounds[::2]
    word_end = bounds[1::2]
    words_per_line = np.diff(np.searchsorted(word_start, np.flatnonzero(is_newline)), prepend=0)
    if words_per_line.min() < 2 or (word_end - word_start).max() > MAX_DIGITS:
        return None
    numbers = np.fromstring(block, np.int64, sep=" ")
    user_position = np.cumsum(words_per_line) - words_per_line
    if (numbers[user_position] != np.arange(first_user, first_user + len(words_per_line))).any():
        return None
    return np.delete(numbers, user_position), words_per_line - 1


def _read_by_line(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `_read_blocks`, of any file in the format.

    Raises:
        ValueError: naming path and line of what does not follow the format.
    """
    rows = []
    try:
        _refuse_other_layouts(path)
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                rows.append(_parse_line(path, number, line))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file of numbers ({error.reason} at byte {error.start}); download it again"
        ) from error
    if not rows:
        raise ValueError(f"{path}: empty; one line per user is expected: user item item …")
    return np.concatenate(rows), np.array([len(row) for row in rows])


def _refuse_other_layouts(path: Path) -> None:
    """Refuse layouts of other projects that `preprocess.own` reads.

    Raises:
        ValueError: naming the command.
    """
    with path.open(encoding="utf-8-sig") as file:
        lines = [line.split() for line in islice(file, N_LAYOUT_LINES)]
    users = [words[0] for words in lines if words]
    if len(users) < 2 or len(users) < len(lines):
        return
    command = f"move it to another folder, and convert it: python -m preprocess.own FILE --dataset {path.stem}"
    if all(len(words) == 2 for words in lines) and len(set(users)) < len(users):
        raise ValueError(
            f"{path}: a user and one item per line, as SASRec reads them, where all items of a user belong; "
            f"{command} --columns user,item --order_of_lines"
        )
    are_raw_ids = all(RAW_ID.fullmatch(word) for words in lines for word in words)
    if are_raw_ids and len(set(users)) == len(users) and not all(user.isdigit() for user in users):
        raise ValueError(f"{path}: raw ids of users and items, where numbers from 0 belong; {command}")


def _parse_line(path: Path, number: int, line: str) -> np.ndarray:
    where = f"{path}: line {number}"
    words = line.split()
    if not words:
        raise ValueError(f"{where} is empty; remove it, or give user {number - 1} its items")
    for word in words:
        if not (word.isascii() and word.isdigit()) or len(word) > MAX_DIGITS:
            raise ValueError(
                f"{where}: {word[:40]!r} is not an id or a day; "
                "write whole numbers, 0 to 999999999, separated by single spaces"
            )
    user = int(words[0])
    items = words[1:]
    if number == 1 and user == 1:
        raise ValueError(
            f"{where}: the first user is 1: this is the 1-based layout of the data, which shifts every item; "
            "take 1 from every number, or download the 0-based file"
        )
    if user != number - 1:
        raise ValueError(f"{where}: user {user} where {number - 1} belongs; number users 0, 1, 2, … in order")
    if not items:
        raise ValueError(f"{where}: user {user} has no item; give it some, or remove it and renumber the others")
    return np.array(items, dtype=np.int64)
