"""Fixtures and options for every test."""

import os

import pytest


def pytest_addoption(parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="random moments at which test_crashes kills each program")


def pytest_configure(config) -> None:
    """Use one thread per process, so that sums have one order and `-n auto` one core each, and no GPU unless asked."""
    if config.getoption("dist", "no") == "load":
        config.option.dist = "worksteal"  # each worker has a run of whole files, so that their fixtures are made once
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session", autouse=True)
def blank_curves():
    """Write empty files instead of curves, whose plotting takes a fifth of a small run; yield what plots them."""
    from utils.logs import run_log

    plot_curves = run_log.plot_curves
    run_log.plot_curves = lambda *_args: b""
    yield plot_curves
    run_log.plot_curves = plot_curves


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_progress():
    """Print no line because a test is slow on this machine; tests of these lines set the time themselves."""
    from utils.cli import progress

    progress.FIRST_LINE_SECONDS = 1e6


@pytest.fixture
def real_curves(blank_curves, monkeypatch):
    """Plot curves in a test that looks at them."""
    monkeypatch.setattr("utils.logs.run_log.plot_curves", blank_curves)


@pytest.fixture
def place(tmp_path):
    """Return a folder with the small dataset in its folder `data`."""
    from tests.support.small_data import write_dataset

    write_dataset(tmp_path / "data")
    return tmp_path
