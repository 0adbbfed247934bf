"""One trial in a process of its own, as Ray Tune runs it: a training, or a small one of `infer`.

A training is a Ray Train group, started and watched from here; its checkpoints are its own (see
`checkpoint_store`), since Train's hold no position in the data and count only once they have been
reported. A trial's every process imports this, so it imports little: what trains is `group`, and
only the workers load it.
"""

import time
from typing import Any

from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.errors import UserError
from orchestrator.infer_trial import InferJob, draw
from orchestrator.trial_job import TrialJob


def run_one(config: dict[str, Any]) -> None:
    """What Tune calls; `config`: "job", a `TrialJob` or an `InferJob`, and when it was "asked" for."""
    job = config["job"]
    if isinstance(job, InferJob):
        tune.report({"pictures": draw(job), "progress": 100})
    else:
        run_training(job, config["asked"])


def run_training(job: TrialJob, asked: float) -> None:
    """Starts the training group and waits for it; a group that fails for good is reported as such."""
    try:
        _trainer(job, asked).fit()
    except TrainingFailedError as error:
        # Not raised: Tune's own retries are for the death of this process alone.
        tune.report({"failed": str(error)})


def _trainer(job: TrialJob, asked: float) -> TorchTrainer:
    resources = job.resources
    threads = str(max(1, int(resources.cpus_per_worker)))
    return TorchTrainer(
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
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker; `config` as in `run_one`.

    A mistake of the user's is reported, not raised: trying again would not help.
    """
    held_since = time.time()
    import ray.train

    from orchestrator.storage import Store
    from orchestrator.worker_logs import sign

    job, rank = config["job"], ray.train.get_context().get_world_rank()
    sign(Store(job.root), job.notes, f"{job.who} rank {rank}", rank)
    # At once, since the search waits for it: nothing has been said of this group yet.
    ray.train.report({"held_since": held_since})
    from orchestrator.group import Worker

    try:
        Worker(job, config["asked"]).run()
    except UserError as error:
        ray.train.report({"failed": str(error)})
