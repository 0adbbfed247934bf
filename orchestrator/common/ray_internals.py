"""Private APIs of Ray; the only module that uses any.

Each function states what it saves and what breaks if Ray changes it. The savings were measured with Ray 2.60
on two busy cores, as CPU seconds of all processes of a sweep of three short trials.
`tests/orchestrator/common/ test_ray_internals.py` checks the assumptions, so that an upgrade of Ray fails
there, in words.
"""

import asyncio
from collections.abc import Mapping
from typing import Any


def autoscaling_config(ray_cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node groups of a RayCluster manifest as Ray's autoscaler reads them.

    Ray has no public function for it. Without it the manifest's resources would have to be parsed here as Ray
    does, which changes with its versions.
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


def in_process_trainer(*arguments: Any, **options: Any) -> Any:
    """Return a TorchTrainer whose controller runs in this process, and which starts few other processes.

    Ray would start processes for the controller with the queue between the two (4.8 CPU seconds a trial), for
    cleaning up after it (2.0 to 2.3; see `placement_groups`) and for datasets that Train itself splits (1.4
    to 2.0; see `batch_stream`). If it breaks, `TorchTrainer(...)` takes its place: each trial then starts
    later.
    """
    from ray.train import Result
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.controller import TrainController

    class InProcessTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            needless = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [each for each in super()._create_default_callbacks() if not isinstance(each, needless)]

        def _initialize_and_run_controller(self, **parts: Any) -> Result:
            controller = TrainController(**parts)
            asyncio.run(controller.run())
            return controller.get_result()

    return InProcessTrainer(*arguments, **options)
