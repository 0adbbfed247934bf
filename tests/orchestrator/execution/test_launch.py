"""What a launch tells the workers of a training."""

from pathlib import Path

import pytest

from orchestrator.common.storage import Store
from orchestrator.execution.launch import _git_revision, checkpoints_uri

FOLDER = "tiny/trials/abc"


@pytest.mark.parametrize("bucket", ["s3://bucket/mlflow/1/abc/artifacts", "gs://bucket/1/abc/artifacts"])
def test_checkpoints_are_with_mlflows_artifacts_where_workers_reach_them(bucket: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for artifacts in (f"{tmp_path}/artifacts/1/abc/artifacts", bucket):
        assert checkpoints_uri(artifacts, store, FOLDER) == artifacts


@pytest.mark.parametrize(
    "artifacts",
    [
        "mlflow-artifacts:/1/abc/artifacts",
        "https://mlflow/1/abc/artifacts",
        "dbfs:/databricks/mlflow/1/abc/artifacts",
        "/job/working/folder/mlruns/1/abc/artifacts",
        "file:///job/working/folder/mlruns/1/abc/artifacts",
    ],
)
def test_checkpoints_are_in_the_storage_where_workers_do_not(artifacts: str, tmp_path: Path) -> None:
    """A folder of the driver's machine is another one on each node, and gone with a submitted job."""
    store = Store(str(tmp_path))
    assert checkpoints_uri(artifacts, store, FOLDER) == f"{tmp_path}/{FOLDER}"


def test_runs_name_the_revision_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has neither git nor its folder: without the variable each run is of "unknown"."""
    monkeypatch.setenv("ORCHESTRATOR_GIT_REVISION", "0123abc")
    monkeypatch.setenv("PATH", "")
    assert _git_revision() == "0123abc"
    monkeypatch.setenv("ORCHESTRATOR_GIT_REVISION", "")
    assert _git_revision() == "unknown"
