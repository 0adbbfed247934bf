"""One trial in a process of its own, as Ray Tune runs it: a training, or a small one of `infer`.

A training is a Ray Train group, started and watched from here. A trial's every process imports
this, so it imports little: what trains is `group`, and only the workers load it.
"""

from typing import Any

from ray import tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.infer_trial import InferJob, draw
from orchestrator.trial_job import TrialJob

CHECKPOINTS_KEPT = 2
"""Train deletes older ones; of one alone, the path that Tune was told could be gone already."""
TRAIN_RUN = "checkpoints"


def run_one(config: dict[str, Any]) -> None:
    """What Tune calls; `config` holds a `TrialJob` or an `InferJob` under "job"."""
    job = config["job"]
    if isinstance(job, InferJob):
        tune.report({"pictures": draw(job), "progress": 100})
    else:
        run_training(job)


def run_training(job: TrialJob) -> None:
    """Starts the training group and waits for it."""
    resources = job.resources
    threads = str(max(1, int(resources.cpus_per_worker)))
    TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
            },
        ),
        run_config=RunConfig(
            name=TRAIN_RUN,
            storage_path=job.checkpoints,
            # In the environment, since autograd's own threads read it there.
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}},
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
        ),
    ).fit()


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker; `config` holds the `TrialJob` under "job"."""
    from orchestrator.group import Worker

    Worker(config["job"]).run()
