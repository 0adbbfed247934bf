"""What a launch tells the workers of a training, and what it tells of a storage that fails."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayTaskError

from orchestrator.common.errors import UnfinishedError
from orchestrator.common.storage import Store
from orchestrator.data.ray_data import prepare_data_context
from orchestrator.execution.launch import _git_revision, _storage_errors, checkpoints_uri
from orchestrator.execution.preparation import _reported

FOLDER = "tiny/trials/abc"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EACCES])
def test_a_storage_that_fails_in_a_task_is_named(number: int, tmp_path: Path) -> None:
    """Ray Data adds its advice to an error's arguments, which is then taken for the name of a file."""
    cause = pickle.loads(pickle.dumps(OSError(number, os.strerror(number), "Failed to apply UDF transform")))
    with pytest.raises(UnfinishedError) as told, _storage_errors():
        raise _reported(RayTaskError("write", "traceback", cause), Store(str(tmp_path)))
    assert str(told.value).startswith(
        f"storage: [Errno {number}] {os.strerror(number)}: '{tmp_path}'; correct"
    )


def test_errors_of_prompts_keep_their_cause() -> None:
    """By default Ray Data raises `UDF failed to process a data block` in their place."""
    prepare_data_context()
    assert ray.data.DataContext.get_current().raise_original_map_exception


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
