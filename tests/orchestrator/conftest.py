"""One real Ray for all the tests that need one."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    from orchestrator.cluster import connected
    from orchestrator.quiet import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    with connected():
        yield
