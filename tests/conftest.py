"""What holds for every test."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

PACKAGES = ("orchestrator", "workloads")
ONE_AT_A_TIME = pytest.mark.xdist_group("cluster")
VARIABLE = "MLFLOW_TRACKING_URI"
os.environ.pop(VARIABLE, None)
# A run in the background of a script ignores Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Two processes test side by side, and sweeps of theirs train: threads that wait for one another by spinning
# take the cores from those that compute. Before torch is loaded, and for all processes of a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray reads it when it is imported; see `library_logging.LOOPBACK`.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2` one process runs all that start a Ray, one after the other, and another the rest.

    The fast lane leaves out heavy tests too, which start no Ray.
    """
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(ONE_AT_A_TIME)
        elif item.get_closest_marker("heavy"):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """A command that a test runs in this process configures logging, which later tests must not inherit."""
    yield
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def tracking_uri_of_nobody() -> Iterator[None]:
    """MLflow hands the URI that a test gave it on to the processes of later tests, by this variable."""
    yield
    os.environ.pop(VARIABLE, None)
