"""One real Ray for all the tests that need one."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    from orchestrator.common.library_logging import process_environment
    from orchestrator.execution.ray_cluster import connected

    os.environ.update(process_environment())
    with connected():
        yield


@pytest.fixture()
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray, and changing this process's settings for it, would be a failure of the test."""

    def started() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("orchestrator.execution.launch.connected", started)
    monkeypatch.setattr("orchestrator.common.cli.prepare_libraries", lambda debug: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
