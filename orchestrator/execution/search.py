"""Ray Tune over Ray Train: which trials run when, and which are cut short.

Two searches in one run of Tune. Trainings were expanded by `plan`, and as many start as fit. As
soon as one has made a student, that student's small trials (see `infer`) join the queue and run
on whatever is free beside the trainings. `Ledger` and `Students` are told of every event.
A training's Ray Train run has a fixed place in the storage, so it resumes there by itself.
"""

import os
import pickle
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from orchestrator.common.signals import defer_first_interrupt
from orchestrator.evaluation.inference_task import InferenceJob
from orchestrator.execution.asha import PruneByRequest
from orchestrator.execution.placement_groups import give_back
from orchestrator.execution.trainable import run_one, trial_resources
from orchestrator.jobs import INTERRUPTED, TrainingJob
from orchestrator.planning.plan import Plan, max_concurrent_inference_trials
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Ledger
from orchestrator.results.progress import Progress
from orchestrator.results.prometheus import PrometheusGauges
from orchestrator.results.students import Students

Job = TrainingJob | InferenceJob
PENDING = 64
"""Trials that Tune may hold in readiness; the queue itself hands out no more than can run."""
HAND_BACK_SECONDS = 20.0
"""For which an interrupted launch waits for its trainings' checkpoints; spot machines give 25 and more."""


@dataclass(frozen=True)
class LaunchState:
    """Who keeps what of a launch: told of every event of its search."""

    ledger: Ledger
    students: Students
    meter: GpuHourBudget


def search(plan: Plan, trainings: Sequence[TrainingJob], books: LaunchState, at_once: int) -> None:
    """Runs all `trainings`, `at_once` at a time, and what becomes ready among the students.

    Raises:
        KeyboardInterrupt: the user asked for the end; trainings have written a checkpoint by then,
            if that took them less than `HAND_BACK_SECONDS`.
        UnfinishedError: the budget is used up; likewise.
    """
    books.meter.check()
    # By default Tune asks a searcher for the next trial only when no other is about to start.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(PENDING)
    queue = Queue(plan, trainings, books.students, at_once)
    store = books.students.store
    settings = plan.sweep.search
    config = tune.TuneConfig(
        search_alg=queue,
        num_samples=-1,
        scheduler=None
        if settings.scheduler == "none"
        else PruneByRequest(settings, plan.sweep.ranked_by, store),
        trial_name_creator=lambda trial: _name(trial.config["job"]),
        trial_dirname_creator=lambda trial: _name(trial.config["job"]),
        reuse_actors=True,
    )
    with defer_first_interrupt() as asked:
        run = tune.RunConfig(
            name=plan.digest,
            storage_path=f"{store.root}/{plan.sweep.name}/tune",
            callbacks=[TuneCallback(plan, books, queue, asked)],
            verbose=0,
            # Of a trial's own process, as when its node dies; what trains is started again by Train.
            failure_config=tune.FailureConfig(max_failures=plan.sweep.resources.max_failures),
        )
        try:
            tune.Tuner(trainable(plan), tune_config=config, run_config=run).fit()
        except KeyboardInterrupt:
            if not asked.is_set():
                books.meter.check()
            raise
        finally:
            books.meter.keep()


def trainable(plan: Plan) -> Any:
    """What Tune runs. Every process of a trial unpickles it: nothing in it may name this module."""
    return tune.with_resources(run_one, partial(trial_resources, plan))


class Queue(Searcher):  # type: ignore[misc]
    """What Tune is to start next: trainings first, then what finished students wait for."""

    def __init__(
        self, plan: Plan, trainings: Sequence[TrainingJob], students: Students, at_once: int
    ) -> None:
        super().__init__(metric="progress", mode="max")
        self._plan = plan
        self._trainings, self._students, self._at_once = deque(trainings), students, at_once
        self._running: dict[str, Job] = {}
        self._ending = False
        self._died: Counter[str] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune to pickle; see `save`."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job's config; None: nothing can start now; FINISHED: there will be no more."""
        job = None if self._ending else self._next()
        if job is not None:
            self._running[trial_id] = job
            return {"job": job, "asked": time.time()}
        return None if self._running or self._trainings else str(Searcher.FINISHED)

    def _next(self) -> Job | None:
        training = len(self.training)
        if self._trainings and training < self._at_once:
            return self._trainings.popleft()
        if not self._students.queued:
            return None
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        small = len(self._running) - training
        if small >= max_concurrent_inference_trials(self._plan, cpus, gpus, training):
            return None
        return self._students.next_job()

    def again(self, job: Job) -> bool:
        """Puts a job back whose process died; false if that has happened to it too often."""
        self._died[_name(job)] += 1
        if self._died[_name(job)] > self._plan.sweep.resources.max_failures:
            return False
        if isinstance(job, TrainingJob):
            self._trainings.appendleft(job)
        else:
            self._students.put_back(job)
        return True

    def end(self) -> None:
        """Nothing more is started."""
        self._ending = True

    @property
    def training(self) -> list[TrainingJob]:
        """The trainings that run."""
        return [job for job in self._running.values() if isinstance(job, TrainingJob)]

    def forget(self, trial_id: str) -> None:
        """The job is over, and whatever follows from it is in the queue."""
        self._running.pop(trial_id, None)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Too early: Tune says so before the callbacks, which is where students become ready."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a launch that is taken up again makes its queue anew; see `launch`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class TuneCallback(tune.Callback):  # type: ignore[misc]
    """Passes Tune's events on, by job."""

    def __init__(self, plan: Plan, books: LaunchState, queue: Queue, asked: Event) -> None:
        """`asked`: the user wants the end."""
        self._plan, self._queue, self._asked = plan, queue, asked
        self._ledger, self._students, self._meter = books.ledger, books.students, books.meter
        self._progress = Progress(books.ledger, books.meter, PrometheusGauges(plan.sweep.name))
        self._deadline: float | None = None
        self._bundles: dict[str, str] = {}
        """What each trial's training group holds, by the trial's id."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings for a restore of its own, which is not used: see `plan`."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if isinstance(job, TrainingJob):
            self._ledger.started(job)
        elif self._plan.infer is not None:
            self._meter.begins(_name(job), self._plan.infer.infer.gpus)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        job = trial.config["job"]
        if isinstance(job, TrainingJob):
            if "held_since" in result:
                self._meter.begins(_name(job), self._plan.gpus_per_trial, result["held_since"])
                self._bundles[trial.trial_id] = result["bundles"]
            self._ledger.reported(job, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        self._give_back(trial)
        # Tune itself starts again what had prefetch_first, but not what was just being handed a process.
        if _died(trial) and self._queue.again(job):
            self._ledger.say(f"{_name(job)}: its process died before it began; it is started again")
            self._meter.ends(_name(job))
            self._queue.forget(trial.trial_id)
            return
        reason = ""
        if trial.error_file and os.path.exists(trial.error_file):
            reason = Path(trial.error_file).read_text(errors="replace")
        self._ended(trial, reason or "the trial's process ended without a word")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._give_back(trial)
        self._ledger.say(f"{_name(trial.config['job'])}: its process died; it is started again")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._progress.tick(self._students.waiting)
        if self._asked.is_set():
            self._wind_down("interrupted")
        elif self._meter.used_up:
            self._wind_down("the budget is used up")

    def _wind_down(self, why: str) -> None:
        """Has trainings write a checkpoint and end, waits for them, and ends the launch."""
        if self._deadline is None:
            self._deadline = time.monotonic() + HAND_BACK_SECONDS
            self._queue.end()
            for job in self._queue.training:
                self._students.store.write(job.notice, INTERRUPTED.encode())
            count = len(self._queue.training)
            self._ledger.say(f"{why}: {count} trainings write a checkpoint; Ctrl-C to end at once")
        if not self._queue.training or time.monotonic() > self._deadline:
            raise KeyboardInterrupt

    def _give_back(self, trial: Any) -> None:
        """What the training group of a process that died still holds."""
        if bundles := self._bundles.pop(trial.trial_id, ""):
            give_back(bundles)

    def _ended(self, trial: Any, error: str) -> None:
        job = trial.config["job"]
        self._meter.ends(_name(job))
        if isinstance(job, InferenceJob):
            self._students.drawn(job, error)
        elif self._ledger.ended(job, error):
            self._students.ready(job.trial)
        self._queue.forget(trial.trial_id)


def _died(trial: Any) -> bool:
    """Whether the process of a trial is gone; else what it ran has failed."""
    file = trial.pickled_error_file
    if not file or not os.path.exists(file):
        return False
    return isinstance(pickle.loads(Path(file).read_bytes()), ray.exceptions.RayActorError)


def _name(job: Job) -> str:
    return job.infer.name if isinstance(job, InferenceJob) else job.trial.name
