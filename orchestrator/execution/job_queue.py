"""The queue of a launch's jobs, from which Ray Tune takes the next trial."""

import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.tune.search import Searcher

from orchestrator.jobs import InferenceJob, JobConfig, TrainingJob
from orchestrator.planning.plan import Plan, max_concurrent_inference_trials
from orchestrator.results.students import Students

Job = TrainingJob | InferenceJob


class JobQueue(Searcher):  # type: ignore[misc]
    """Trainings first, then the small trials of students that are finished."""

    def __init__(
        self, plan: Plan, trainings: Sequence[TrainingJob], students: Students, max_trainings: int
    ) -> None:
        """Queue all trainings, of which `max_trainings` run at a time."""
        super().__init__(metric="progress", mode="max")
        self._plan = plan
        self._trainings, self._students, self._max_trainings = deque(trainings), students, max_trainings
        self._running: dict[str, Job] = {}
        self._ending = False
        self._deaths: Counter[str] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for Tune to pickle; see `save`."""
        return {}

    def suggest(self, trial_id: str) -> JobConfig | str | None:
        """Return the next job's config; None if none can start now; FINISHED if there will be no more."""
        job = None if self._ending else self._next()
        if job is not None:
            self._running[trial_id] = job
            return {"job": job, "asked": time.time()}
        return None if self._running or self._trainings else str(Searcher.FINISHED)

    def _next(self) -> Job | None:
        training = len(self.training)
        if self._trainings and training < self._max_trainings:
            return self._trainings.popleft()
        if not self._students.queued:
            return None
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        small = len(self._running) - training
        if small >= max_concurrent_inference_trials(self._plan, cpus, gpus, training):
            return None
        return self._students.next_job()

    def retry(self, job: Job) -> bool:
        """Put back a job whose process died; return false if that has happened to it too often."""
        name = job_name(job)
        self._deaths[name] += 1
        if self._deaths[name] > self._plan.sweep.resources.max_failures:
            return False
        if isinstance(job, TrainingJob):
            self._trainings.appendleft(job)
        else:
            self._students.put_back(job)
        return True

    def end(self) -> None:
        """Start nothing more."""
        self._ending = True

    @property
    def training(self) -> list[TrainingJob]:
        """The trainings that run."""
        return [job for job in self._running.values() if isinstance(job, TrainingJob)]

    def forget(self, trial_id: str) -> None:
        """Drop a job that is over, once whatever follows from it is queued."""
        self._running.pop(trial_id, None)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: Tune calls this before the callbacks that make students ready; see `forget`."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a later launch builds its queue from the storage; see `launch`."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `save`."""


def job_name(job: Job) -> str:
    """Return the name of a job's trial."""
    return job.infer.name if isinstance(job, InferenceJob) else job.trial.name
