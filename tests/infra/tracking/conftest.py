"""One stack for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.infra.tracking.stack import Stack, make_login


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It runs, and knows the login of sweeps."""
    started = Stack(tmp_path_factory.mktemp("stack"))
    try:
        started.start()
        make_login(started)
        yield started
    finally:
        started.remove()
