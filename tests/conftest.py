"""What holds for every test."""

import os

import pytest


def pytest_addoption(parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="random moments at which test_crashes kills each program")


def pytest_configure() -> None:
    """One thread a process: sums in one order on any machine, and a core for each of `-n auto`. No GPU unasked."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def place(tmp_path):
    """A folder with the small data below it."""
    from tests.support.small_data import write_dataset

    write_dataset(tmp_path / "data")
    return tmp_path
