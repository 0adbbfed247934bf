"""One trial in a process of its own: a Ray Train group, started and watched from inside Ray Tune.

A trial's every process imports this, so it imports little: what trains is `group`, and only
the workers load it.
"""

from collections.abc import Sequence
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.trial_job import TrialJob

CHECKPOINTS_KEPT = 2
"""Train deletes older ones; of one alone, the path that Tune was told could be gone already."""
TRAIN_RUN = "checkpoints"


def run_trial(config: dict[str, Any], jobs: Sequence[TrialJob]) -> None:
    """One trial, in a process of its own: starts the training group and waits for it."""
    job = jobs[config["job"]]
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
