"""Amounts of memory as a user writes them."""

import re

GIB = 2**30
UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}B": 1000**n for n, prefix in enumerate("KMGT", 1)}


def parse_bytes(text: str) -> int:
    """Return the bytes of "24GiB", "20GB", "1.5 GiB" or a plain number.

    Raises:
        ValueError: the text is none of these, or less than one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    size = int(float(match[1]) * UNITS.get(match[2], 0)) if match else 0
    if not size:
        units = ", ".join(unit for unit in UNITS if unit not in ("", "B"))
        raise ValueError(f"{text!r} is no amount of memory; write bytes, or a number with {units}")
    return size
