"""One trial in a process of its own, as Ray Tune runs it: a training, or a small trial of the second search.

A training is a Ray Train group, started and watched from this process. Its checkpoints are its own (see
`training.checkpoint`), since Train's hold no position in the data and count only once they have been
reported. Every process of a trial imports this module, so it imports little; the workers alone load
`training.worker`.
"""

import time
from typing import Any

from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.common.errors import UserError
from orchestrator.common.ray_internals import in_process_trainer
from orchestrator.evaluation.inference_task import draw
from orchestrator.jobs import (
    PROGRESS,
    Failed,
    GroupStarted,
    InferenceJob,
    JobConfig,
    TrainingJob,
    WorkerReport,
)
from orchestrator.planning.plan import DRIVER_CPUS, Plan


def trial_resources(plan: Plan, config: JobConfig) -> tune.PlacementGroupFactory:
    """Return what Tune reserves for a trial's own process; a training group reserves its own resources."""
    needed = {"CPU": DRIVER_CPUS}
    if isinstance(config["job"], InferenceJob) and plan.infer is not None and plan.infer.infer.gpus:
        needed["GPU"] = plan.infer.infer.gpus
    return tune.PlacementGroupFactory([needed])


def run_job(config: JobConfig) -> None:
    """Run one trial; Tune calls this."""
    job = config["job"]
    if isinstance(job, InferenceJob):
        tune.report({"pictures": draw(job), PROGRESS: 100})
    else:
        run_training(job, config["asked"])


def run_training(job: TrainingJob, asked: float) -> None:
    """Start the training group and wait for it; report a group that fails permanently."""
    try:
        _trainer(job, asked).fit()
    except TrainingFailedError as error:
        # Not raised: Tune's own retries are for the death of this process alone.
        tune.report(WorkerReport((Failed(str(error)),)).to_tune())


class TuneReporter(UserCallback):  # type: ignore[misc]
    """Passes rank 0's reports on to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Report the result of rank 0."""
        tune.report(metrics[0])


def _trainer(job: TrainingJob, asked: float) -> Any:
    resources = job.resources
    threads = str(max(1, int(resources.cpus_per_worker)))
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return in_process_trainer(
        train_worker,
        train_loop_config={"job": job, "asked": asked},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": resources.cpus_per_worker, **gpus},
            label_selector=job.node_labels or None,
            placement_strategy="STRICT_PACK" if job.on_one_node else "PACK",
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


def train_worker(config: JobConfig) -> None:
    """Run one worker of a training group; Ray Train calls this with the config of `run_job`.

    A user's error is reported and not raised: a retry would not help.
    """
    held_since = time.time()
    import ray.train

    from orchestrator.common.storage import Store
    from orchestrator.execution.placement_groups import current
    from orchestrator.training.startup import prepare_training, send
    from orchestrator.training.worker_logs import register_worker

    job, rank = config["job"], ray.train.get_context().get_world_rank()
    assert isinstance(job, TrainingJob)
    register_worker(Store(job.root), job.workers, f"{job.label} rank {rank}", rank)
    # First of all: the search counts the group's GPU-hours from here.
    send(GroupStarted(held_since, current()))
    try:
        start = prepare_training(job)
        from orchestrator.training.worker import TrainWorker

        TrainWorker(job, config["asked"], start).run()
    except UserError as error:
        send(Failed(str(error)))
