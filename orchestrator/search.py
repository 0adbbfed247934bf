"""Ray Tune over Ray Train: which trials run when, and which are cut short.

Two searches in one run of Tune. Trainings were expanded by `plan`, and as many start as fit. As
soon as one has made a student, that student's small trials (see `infer`) join the queue and run
on whatever is free beside the trainings. `Ledger` and `Students` are told of every event.
A training's Ray Train run has a fixed place in the storage, so it resumes there by itself.
"""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.infer_trial import InferJob
from orchestrator.ledger import Ledger
from orchestrator.plan import DRIVER_CPUS, Plan, small_trials_at_once
from orchestrator.students import Students
from orchestrator.trial import run_one
from orchestrator.trial_job import TrialJob

Job = TrialJob | InferJob
PENDING = 64
"""Trials that Tune may hold in readiness; the queue itself hands out no more than can run."""


def search(
    plan: Plan, trainings: Sequence[TrialJob], ledger: Ledger, students: Students, at_once: int
) -> None:
    """Runs all `trainings`, `at_once` at a time, and what becomes ready in `students`."""
    # By default Tune asks a searcher for the next trial only when no other is about to start.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(PENDING)
    queue = Queue(plan, trainings, students, at_once)
    config = tune.TuneConfig(
        search_alg=queue,
        num_samples=-1,
        scheduler=_scheduler(plan),
        trial_name_creator=lambda trial: _name(trial.config["job"]),
        trial_dirname_creator=lambda trial: _name(trial.config["job"]),
        reuse_actors=True,
    )
    run = tune.RunConfig(
        name=plan.digest,
        storage_path=f"{students.root}/{plan.sweep.name}/tune",
        callbacks=[_Events(ledger, students, queue)],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=0),
    )
    trainable = tune.with_resources(run_one, lambda config: _resources(plan, config["job"]))
    tune.Tuner(trainable, tune_config=config, run_config=run).fit()


class Queue(Searcher):  # type: ignore[misc]
    """What Tune is to start next: trainings first, then what finished students wait for."""

    def __init__(self, plan: Plan, trainings: Sequence[TrialJob], students: Students, at_once: int) -> None:
        super().__init__(metric="progress", mode="max")
        self._plan = plan
        self._trainings, self._students, self._at_once = deque(trainings), students, at_once
        self._running: dict[str, Job] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune to pickle; see `save`."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job's config; None: nothing can start now; FINISHED: there will be no more."""
        job = self._next()
        if job is not None:
            self._running[trial_id] = job
            return {"job": job}
        return None if self._running or self._trainings else str(Searcher.FINISHED)

    def _next(self) -> Job | None:
        training = sum(isinstance(job, TrialJob) for job in self._running.values())
        if self._trainings and training < self._at_once:
            return self._trainings.popleft()
        if not self._students.queued:
            return None
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        small = len(self._running) - training
        if small >= small_trials_at_once(self._plan, cpus, gpus, training):
            return None
        return self._students.next_job()

    def forget(self, trial_id: str) -> None:
        """The job is over, and whatever follows from it is in the queue."""
        self._running.pop(trial_id, None)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Too early: Tune says so before the callbacks, which is where students become ready."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a launch that is taken up again makes its queue anew; see `launch`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class _Events(tune.Callback):  # type: ignore[misc]
    """Passes Tune's events on, by job."""

    def __init__(self, ledger: Ledger, students: Students, queue: Queue) -> None:
        self._ledger, self._students, self._queue = ledger, students, queue

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings for a restore of its own, which is not used: see `plan`."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if isinstance(job, TrialJob):
            self._ledger.started(job)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        job = trial.config["job"]
        if isinstance(job, TrialJob):
            self._ledger.reported(job, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = ""
        if trial.error_file and os.path.exists(trial.error_file):
            reason = Path(trial.error_file).read_text(errors="replace")
        self._ended(trial, reason or "the trial's process ended without a word")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._ledger.tick(self._students.progress())

    def _ended(self, trial: Any, error: str) -> None:
        job = trial.config["job"]
        if isinstance(job, InferJob):
            self._students.drawn(job, error)
        elif self._ledger.ended(job, error):
            self._students.ready(job.trial)
        self._queue.forget(trial.trial_id)


def _name(job: Job) -> str:
    return job.infer.name if isinstance(job, InferJob) else job.trial.name


def _resources(plan: Plan, job: Job) -> tune.PlacementGroupFactory:
    if isinstance(job, TrialJob) or plan.infer is None:
        return tune.PlacementGroupFactory([{"CPU": DRIVER_CPUS}])
    infer = plan.infer.infer
    return tune.PlacementGroupFactory([{"CPU": DRIVER_CPUS, **({"GPU": infer.gpus} if infer.gpus else {})}])


def _scheduler(plan: Plan) -> TrialScheduler | None:
    search = plan.sweep.search
    if search.scheduler == "none":
        return None
    return ASHAScheduler(
        # The share of a trial's own steps, in per cent, as trials may differ in length.
        time_attr="progress",
        metric=search.metric,
        mode="max",
        max_t=101,
        grace_period=max(1, round(100 * search.grace)),
        reduction_factor=search.reduction_factor,
    )
