"""What holds for every test."""

import os


def pytest_configure() -> None:
    """One thread a process: sums in one order on any machine, and a core for each of `-n auto`."""
    os.environ["OMP_NUM_THREADS"] = "1"
