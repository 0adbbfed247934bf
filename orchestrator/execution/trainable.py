"""One trial in a process of its own, as Ray Tune runs it: a training, or a small one of `infer`.

A training is a Ray Train group, started and watched from here; its checkpoints are its own (see
`checkpoint_store`), since Train's hold no position in the data and count only once they have been
reported. A trial's every process imports this, so it imports little: what trains is `group`, and
only the workers load it.
"""

import asyncio
import time
from typing import Any

from ray import tune
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.common.errors import UserError
from orchestrator.evaluation.inference_task import InferenceJob, draw
from orchestrator.jobs import TrainingJob
from orchestrator.planning.plan import DRIVER_CPUS, Plan

SECONDS_AFTER_A_REPORT, SECONDS_IN_SILENCE = 0.2, 1.0
"""Between two looks at the workers of a group: the least, and the most."""
NEEDLESS = (DatasetsCallback, PlacementGroupCleanerCallback)


def trial_resources(plan: Plan, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial's own process; a training group reserves its own."""
    needed = {"CPU": DRIVER_CPUS}
    if isinstance(config["job"], InferenceJob) and plan.infer is not None and plan.infer.infer.gpus:
        needed["GPU"] = plan.infer.infer.gpus
    return tune.PlacementGroupFactory([needed])


def run_one(config: dict[str, Any]) -> None:
    """What Tune calls; `config`: "job", a `TrainingJob` or an `InferenceJob`, and when it was "asked" for."""
    job = config["job"]
    if isinstance(job, InferenceJob):
        tune.report({"pictures": draw(job), "progress": 100})
    else:
        run_training(job, config["asked"])


def run_training(job: TrainingJob, asked: float) -> None:
    """Starts the training group and waits for it; a group that fails for good is reported as such."""
    try:
        _trainer(job, asked).fit()
    except TrainingFailedError as error:
        # Not raised: Tune's own retries are for the death of this process alone.
        tune.report({"failed": str(error)})


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Whose controller runs in the trial's own process, and which starts few others.

    Ray would start one for the controller, one for the queue between the two, one that cleans up
    after it (see `bundles`) and one for datasets that Train itself splits (see `stream`): together
    half of what a trial costs before its first step.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [callback for callback in made if not isinstance(callback, NEEDLESS)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        controller = _Controller(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


class _Controller(TrainController):  # type: ignore[misc]
    """Looks at its workers soon after a report, and ever more rarely while they are silent.

    A training waits with a report until the one before it was seen; and a look is answered by a thread
    of the worker's, in which time it does not train.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._health_check_interval_s = SECONDS_AFTER_A_REPORT

    async def _poll_workers(self) -> Any:
        status = await super()._poll_workers()
        silent = status.worker_statuses[0].training_report is None
        longer = min(2 * self._health_check_interval_s, SECONDS_IN_SILENCE)
        self._health_check_interval_s = longer if silent else SECONDS_AFTER_A_REPORT
        return status


class TuneReporter(UserCallback):  # type: ignore[misc]
    """Hands what rank 0 reports on to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        tune.report(metrics[0])


def _trainer(job: TrainingJob, asked: float) -> TorchTrainer:
    resources = job.resources
    threads = str(max(1, int(resources.cpus_per_worker)))
    return _Trainer(
        train_worker,
        train_loop_config={"job": job, "asked": asked},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
            },
            label_selector=job.node_labels or None,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=f"{job.root}/{job.folder}",
            # In the environment, since autograd's own threads read it there.
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}},
            callbacks=[TuneReporter()],
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker; `config` as in `run_one`.

    A mistake of the user's is reported, not raised: trying again would not help.
    """
    held_since = time.time()
    import ray.train

    from orchestrator.common.storage import Store
    from orchestrator.execution.placement_groups import current_id
    from orchestrator.training.startup import begin
    from orchestrator.training.worker_logs import sign

    job, rank = config["job"], ray.train.get_context().get_world_rank()
    sign(Store(job.root), job.notes, f"{job.who} rank {rank}", rank)
    # At once, since the search waits for it: nothing has been said of this group yet.
    ray.train.report({"held_since": held_since, "bundles": current_id()})
    try:
        beginning = begin(job)
        from orchestrator.training.worker import Worker

        Worker(job, config["asked"], beginning).run()
    except UserError as error:
        ray.train.report({"failed": str(error)})
