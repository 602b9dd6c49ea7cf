"""Ids that different files write differently: their order, and which of them mean the same."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

WHOLE_NUMBER = re.compile(r"([+-]?)0*([0-9]+)(?:[.,](?:0|00|0{4,}))?")  # 7, 007, 7.0; three zeros may be thousands
SCIENTIFIC = re.compile(r"([1-9])(?:\.([0-9]{1,4}))?[eE]\+?0*([0-9]{1,2})")  # 1e+05; with more digits some may be lost
SHORT_NUMBER = re.compile(r"[0-9]{1,18}")
MARKS = " \t\r\n\ufeff\"'`“”‘’"  # blanks and quotation marks around an id
MAX_EXAMPLES = 3


def whole_number(text: str) -> tuple[str, int, str] | None:
    """Return a key that orders whole numbers of any length, and is equal for those that are; None of another text.

    Args:
        text: such as 7, 007, 7.0 or 1e+05.
    """
    if match := WHOLE_NUMBER.fullmatch(text):
        sign, digits = match.groups()
    elif match := SCIENTIFIC.fullmatch(text):
        first, fraction, exponent = match.groups("")
        if int(exponent) < len(fraction):
            return None
        sign, digits = "", f"{first}{fraction}".ljust(int(exponent) + 1, "0")
    else:
        return None
    is_negative = sign == "-" and digits != "0"
    return ("-", -len(digits), _complement(digits)) if is_negative else ("0", len(digits), digits)


def _complement(digits: str) -> str:
    """Return digits that are in the opposite order."""
    return digits.translate(str.maketrans("0123456789", "9876543210"))


def numeric_order(ids: Sequence[str]) -> list[int] | None:
    """Return the indices of encoded ids in the order of their numbers; None unless all are whole numbers."""
    keys = []
    for text in ids:
        keys.append(whole_number(text))
        if keys[-1] is None:
            return None
    return sorted(range(len(ids)), key=lambda index: (keys[index], ids[index]))


def canonical_form(encoded: str) -> tuple | str:
    """Return what an id means without blanks and quotation marks around it, whole numbers as numbers."""
    text = unquote(encoded).strip(MARKS)
    return whole_number(text) or text


@dataclass(frozen=True)
class IdMatch:
    """Which id of a file each id of a dataset means."""

    found: dict[str, str]  # id of the dataset -> id of the file, those without a match left out
    n_wanted: int  # ids of the dataset
    rewritten: list[str]  # ids of the dataset that the file writes otherwise

    def note(self) -> str:
        """Return a remark on ids that the file writes otherwise; empty if there are none."""
        if not self.rewritten:
            return ""
        example = self.rewritten[0]
        ours, theirs = (repr(unquote(text)) for text in (example, self.found[example]))
        return f"{len(self.rewritten):,} of them written otherwise there, as {theirs} for {ours}"


def match_ids(wanted: Sequence[str], offered: Collection[str]) -> IdMatch:
    """Find each id of a dataset among those of a file: the same text, or else the same number or the same trimmed text.

    A number or trimmed text that several ids on one side share joins nothing.

    Args:
        wanted: encoded ids of the dataset, each once.
        offered: encoded ids of the file.
    """
    offered = set(offered)
    found = {text: text for text in wanted if text in offered}
    rewritten = []
    if len(found) < len(wanted):
        theirs = _unique_forms(offered - found.keys())
        ours = {text: form for form, text in _unique_forms(wanted).items()}
        for text in wanted:
            if text not in found and text in ours and ours[text] in theirs:
                found[text] = theirs[ours[text]]
                rewritten.append(text)
    return IdMatch(found, len(wanted), rewritten)


def _unique_forms(ids: Collection[str]) -> dict[tuple | str, str]:
    """Return the id of each form that one of them alone has."""
    forms = {text: canonical_form(text) for text in ids}
    count = Counter(forms.values())
    return {form: text for text, form in forms.items() if count[form] == 1}


def show_examples(wanted: Sequence[str], offered: Collection[str]) -> str:
    """Return examples of the ids of a file and a dataset, of which none match."""
    return f"it has {_examples(sorted(offered))}, the dataset {_examples(wanted)}"


def likely_cause(wanted: Sequence[str], offered: Collection[str]) -> str:
    """Return why no id of a file is one of a dataset, as far as the ids tell."""
    ours, theirs = ({unquote(text).strip(MARKS) for text in ids} for ids in (wanted, offered))
    if {text.lower() for text in ours} & {text.lower() for text in theirs}:
        return "they differ in upper and lower case: write them alike"
    our_digits, their_digits = ({re.sub(r"\D", "", text) for text in ids} - {""} for ids in (ours, theirs))
    if our_digits & their_digits:
        return "they agree in their digits alone: write them alike"
    return "take the file about the same items, with ids written alike"


def count_from_other_ends(wanted: Sequence[str], offered: Collection[str]) -> str:
    """Return a remark if the ids of both sides are successive numbers, one side's counted from one more; else empty."""
    ours, theirs = ({unquote(text) for text in ids} for ids in (wanted, offered))
    if len(ours) != len(theirs) or not all(SHORT_NUMBER.fullmatch(text) for text in ours | theirs):
        return ""
    first, last = min(map(int, ours)), max(map(int, ours))
    their_first, their_last = min(map(int, theirs)), max(map(int, theirs))
    if last - first != len(ours) - 1 or their_last - their_first != last - first or abs(first - their_first) != 1:
        return ""
    return f"it counts from {their_first} to {their_last}, the dataset from {first} to {last}: are they the same items?"


def _examples(ids: Sequence[str]) -> str:
    listed = ", ".join(f"{unquote(text)[:30]!r}" for text in ids[:MAX_EXAMPLES])
    return listed + (", …" if len(ids) > MAX_EXAMPLES else "") if ids else "none"
