"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A test that runs a flow in this process leaves Prefect's handlers on the loggers; what later tests log belongs to no run.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A Prefect server on an empty database, for flows that run in this process."""
    from prefect.testing.utilities import prefect_test_harness  # takes seconds

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real observations beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real observations are not beside the checkout: {folder}")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-size",
        choices=("fast", "long"),
        default="fast",
        help="how often each fault of tests/faults falls: `long` is what `make faults` runs",
    )
