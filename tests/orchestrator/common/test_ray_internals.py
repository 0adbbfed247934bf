"""Assumptions about Ray's private APIs: a failure states what an upgrade of Ray has changed."""

import inspect
from pathlib import Path

import pytest
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController

from orchestrator.common.ray_internals import automatic_address, autoscaling_config


def test_ray_is_the_version_that_was_checked() -> None:
    assert ray.__version__ == "2.60.0", (
        "read common/ray_internals.py, run tests.benchmarks.trial_start, update this"
    )


def test_trainer_has_the_overridden_methods() -> None:
    for name in ("_create_default_callbacks", "_initialize_and_run_controller"):
        assert hasattr(TorchTrainer, name), f"Ray Train has no {name} to override any more"
    assert inspect.iscoroutinefunction(TrainController.run), "the controller's run is no coroutine any more"
    assert callable(TrainController.get_result), "the controller keeps its result elsewhere"


def test_private_callbacks_exist() -> None:
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    assert DatasetsCallback and PlacementGroupCleanerCallback


def test_auto_is_read_from_the_file_of_the_last_ray_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    assert automatic_address() is None, "Ray finds another one than those of `ray start` and its processes"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:6379")
    assert automatic_address() == "127.0.0.1:6379", "Ray keeps the address in another file"


def test_autoscaler_reads_a_raycluster() -> None:
    pod = {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"cpu": "4", "memory": "8Gi"}}}]}}
    group = {"groupName": "cpu", "minReplicas": 0, "maxReplicas": 3, "rayStartParams": {}, "template": pod}
    head = {"rayStartParams": {"num-cpus": "0"}, "template": pod}
    spec = {"headGroupSpec": head, "workerGroupSpecs": [group]}
    found = autoscaling_config({"metadata": {"name": "train", "namespace": "ml"}, "spec": spec})
    kind = found["available_node_types"]["cpu"]
    assert (kind["max_workers"], kind["resources"]["CPU"]) == (3, 4), "the autoscaler's config changed"
