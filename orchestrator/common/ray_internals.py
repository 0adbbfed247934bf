"""Private APIs of Ray; the only module that uses any.

Each function states what it saves and what breaks if Ray changes it. The savings were measured with Ray 2.60
on two busy cores, as CPU seconds of all processes of a sweep of three short trials.
`tests/orchestrator/common/test_ray_internals.py` checks the assumptions and says in words which one an
upgrade of Ray breaks.
"""

import asyncio
import math
import os
import time
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from ray.data._internal.block_batching.iter_batches import BatchIterator
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback

PAUSE_SECONDS = 0.05
REST_SECONDS = 2.0
"""Longest rest of an executor while enough blocks are ready; it may take so long to notice its end."""
AHEAD = "blocks_ahead"


def autoscaling_config(ray_cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node groups of a RayCluster manifest as Ray's autoscaler reads them.

    Ray has no public function for it. Without it the manifest's resources would have to be parsed here as Ray
    does, which changes with its versions.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config: Mapping[str, Any] = _derive_autoscaling_config_from_ray_cr(ray_cluster)
    return config


def automatic_address() -> str | None:
    """Return HOST:PORT of the Ray on this machine that RAY_ADDRESS=auto stands for; None if none runs.

    Ray has no public function for it, and waits for minutes for one that has ended.
    """
    from ray._private.services import get_ray_address_from_environment

    try:
        with patch.dict(os.environ, RAY_ADDRESS="auto"):
            found: str = get_ray_address_from_environment("auto", None)
    except ConnectionError:
        return None
    return found


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


def _enough(context: Any, state: Any, running: int = 0) -> bool:
    """Return true if enough blocks are read or being read; see `limit_ray_data`."""
    ready: int = state.total_enqueued_output_blocks()
    enough: float = context.get_config(AHEAD, math.inf)
    return ready + running >= enough


class ThrottleCallback(ExecutionCallback):  # type: ignore[misc]
    """Rests between two polls of Ray Data's executor at its tasks.

    While it may start no task and none runs (the consumer is slower than the reader, or trainings hold all
    CPUs), the executor polls again at once, without end: in a training worker it used more CPU time than the
    training.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Rest after a poll, for longer while enough blocks are ready."""
        _, state = executor._output_node
        time.sleep(PAUSE_SECONDS)
        until = time.monotonic() + REST_SECONDS
        while _enough(executor._data_context, state) and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)


class PrefetchLimit(BackpressurePolicy):  # type: ignore[misc]
    """Starts no task while enough blocks are ready for the consumer."""

    def can_add_input(self, op: Any) -> bool:
        """Return true if the executor may start a task of `op`."""
        return not _enough(self._data_context, self._topology[op], op.num_active_tasks())


def limit_ray_data(context: Any, blocks_ahead: float) -> None:
    """Have Ray Data's executor rest between polls, and read at most `blocks_ahead` ahead of its consumer.

    Without it a sweep does 0.95 of a plain loop's samples at steps of 0.25 s (one start of eight pairs, with
    datasets of 64 steps each as the public way) instead of 0.99. If Ray Data changes, drop the call: prompts
    are then read as far ahead as the object store has room.
    """
    # Every five seconds the consuming thread would pickle the metadata of all blocks for Ray's statistics.
    BatchIterator.UPDATE_METRICS_INTERVAL_S = math.inf
    context.custom_execution_callback_classes = [ThrottleCallback]
    context.set_config(AHEAD, blocks_ahead)
    policies = [*ENABLED_BACKPRESSURE_POLICIES, PrefetchLimit]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
