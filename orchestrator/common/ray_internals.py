"""Private APIs of Ray; the only module that uses any.

Each function states what it saves and what breaks if Ray changes it. `tests/orchestrator/common/
test_ray_internals.py` checks the assumptions, so that an upgrade of Ray fails there, in words.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

POLL_SECONDS_AFTER_REPORT, POLL_SECONDS_IN_SILENCE = 0.2, 1.0
"""Shortest and longest time between two polls of a training group's workers."""


def log_files() -> dict[str, str]:
    """Return the paths of this worker process's own log files, as `out` and `err`.

    Ray has no public way from a process to its log. Without it a failed trial's logs are not copied to
    MLflow.
    """
    import ray

    worker: Any = ray._private.worker.global_worker
    return {"out": worker.get_out_file_path(), "err": worker.get_err_file_path()}


def placement_group(hex_id: str) -> Any:
    """Return the placement group of this hex id.

    Ray's public functions find a group by its name only. Without it the resources of a training group whose
    trial process died stay reserved until the job ends.
    """
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(PlacementGroupID.from_hex(hex_id))


def autoscaling_config(ray_cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node groups of a RayCluster manifest as Ray's autoscaler reads them.

    Without it the manifest's resources would have to be parsed as Ray does, which changes with its versions.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config: Mapping[str, Any] = _derive_autoscaling_config_from_ray_cr(ray_cluster)
    return config


def kubernetes_get(namespace: str, path: str) -> Mapping[str, Any]:
    """Return an object of this namespace from Kubernetes, with the account of Ray's autoscaler.

    Without it a Kubernetes client would be one more dependency.
    """
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    found: Mapping[str, Any] = KubernetesHttpApiClient(namespace).get(path)
    return found


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have the Ray that is started within listen at loopback alone, as on macOS.

    Without it most of Ray's servers listen on every interface of the machine.
    """
    with patch("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False):
        yield


def in_process_trainer(*arguments: Any, **options: Any) -> Any:
    """Return a TorchTrainer whose controller runs in this process, and which starts few other processes.

    Ray would start processes for the controller, for the queue between the two, for cleaning up after it (see
    `placement_groups`) and for datasets that Train itself splits (see `batch_stream`).
    """
    from ray.train import Result
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.controller import TrainController

    class Controller(TrainController):  # type: ignore[misc]
        """Polls its workers soon after a report, and ever more rarely while they are silent.

        A training waits with a report until the one before it was received; and a thread of the worker
        answers a poll, in which time the worker does not train.
        """

        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            self._health_check_interval_s = POLL_SECONDS_AFTER_REPORT

        async def _poll_workers(self) -> Any:
            status = await super()._poll_workers()
            silent = status.worker_statuses[0].training_report is None
            longer = min(2 * self._health_check_interval_s, POLL_SECONDS_IN_SILENCE)
            self._health_check_interval_s = longer if silent else POLL_SECONDS_AFTER_REPORT
            return status

    class InProcessTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            needless = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [each for each in super()._create_default_callbacks() if not isinstance(each, needless)]

        def _initialize_and_run_controller(self, **parts: Any) -> Result:
            controller = Controller(**parts)
            asyncio.run(controller.run())
            return controller.get_result()

    return InProcessTrainer(*arguments, **options)
