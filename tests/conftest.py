"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest

VARIABLE = "MLFLOW_TRACKING_URI"
os.environ.pop(VARIABLE, None)


@pytest.fixture(autouse=True)
def tracking_uri_of_nobody() -> Iterator[None]:
    """MLflow hands the URI that a test gave it on to the processes of later tests, by this variable."""
    yield
    os.environ.pop(VARIABLE, None)
