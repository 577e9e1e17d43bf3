"""Fixtures that several rooms' tests share."""

import os
import signal
import sys
from pathlib import Path

import pytest

# A shell that starts the tests in the background leaves SIGINT ignored, also for all that they
# start; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    """Seed before a test and its fixtures, so that no result hangs on which tests ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of shared test data, or a skip that says so (in CI a failure)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("EDGEKIT_DATA", default))
    if not path.is_dir():
        message = f"no test data at {path}; set EDGEKIT_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
