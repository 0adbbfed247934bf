"""Ray Tune's events, passed to the launch's ledger, students and budget by job."""

import logging
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import ray
from ray import tune

from orchestrator.common.errors import UnfinishedError
from orchestrator.execution.job_queue import JobQueue, job_name
from orchestrator.execution.placement_groups import release
from orchestrator.jobs import INTERRUPTED, REPORT, GroupStarted, InferenceJob, TrainingJob, WorkerReport
from orchestrator.planning.plan import Plan
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Ledger
from orchestrator.results.progress import Progress
from orchestrator.results.prometheus import PrometheusGauges
from orchestrator.results.students import Students

logger = logging.getLogger(__name__)
HAND_BACK_SECONDS = 20.0
"""Time that an interrupted launch waits for its trainings' checkpoints; spot machines give 25 s and more."""


@dataclass(frozen=True)
class LaunchState:
    """State of a launch, which every event of its search updates."""

    ledger: Ledger
    students: Students
    budget: GpuHourBudget


class TuneCallback(tune.Callback):  # type: ignore[misc]
    """Updates the launch's state by Tune's events."""

    def __init__(self, plan: Plan, state: LaunchState, queue: JobQueue, asked: Event) -> None:
        """Watch a search; `asked` is set when the user interrupts it."""
        self._plan, self._queue, self._asked = plan, queue, asked
        self._ledger, self._students, self._budget = state.ledger, state.students, state.budget
        gauges = PrometheusGauges(plan.sweep.name)
        self._progress = Progress(state.ledger, state.budget, gauges, plan.sweep.ranked_by)
        self._deadline: float | None = None
        self._progressed = time.monotonic()
        """Time of the last event of a trial, by the monotonic clock."""
        self._placement_groups: dict[str, Any] = {}
        """Resources of each training group, by Tune's id of the trial."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for Tune to pickle: its own restore is not used; see `JobQueue.save`."""
        return {}

    def close(self) -> None:
        """End the display of progress."""
        self._progress.close()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a job's process runs."""
        job = trial.config["job"]
        if isinstance(job, TrainingJob):
            self._ledger.started(job)
        elif self._plan.infer is not None:
            self._budget.start(job_name(job), self._plan.infer.infer.gpus)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a worker's report."""
        self._progressed = time.monotonic()
        job = trial.config["job"]
        if isinstance(job, TrainingJob):
            report: WorkerReport = result[REPORT]
            for event in report.events:
                if isinstance(event, GroupStarted):
                    self._budget.start(job_name(job), self._plan.gpus_per_trial, event.held_since)
                    self._placement_groups[trial.trial_id] = event.placement_group
            self._ledger.reported(job, report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a job's process ended."""
        self._ended(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Retry a job whose process died before it began; record every other failure."""
        job = trial.config["job"]
        self._release(trial)
        # Tune itself restarts a trial that had begun, but not one that was being handed a process.
        if _process_died(trial) and self._queue.retry(job):
            logger.warning("%s: its process died before it began; it is started again", job_name(job))
            self._budget.end(job_name(job))
            self._queue.forget(trial.trial_id)
            return
        reason = ""
        if trial.error_file and os.path.exists(trial.error_file):
            reason = Path(trial.error_file).read_text(errors="replace")
        self._ended(trial, reason or "the trial process exited without an error message")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Release the resources of a training group whose trial process died."""
        self._release(trial)
        logger.warning("%s: its process died; it is started again", job_name(trial.config["job"]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Update the display, and end the search if the user or the budget asks for it."""
        self._progress.tick(self._students.waiting)
        if self._asked.is_set():
            self._wind_down("interrupted")
        elif self._budget.used_up:
            self._wind_down("the budget is used up")
        elif self._stalled:
            self._wind_down("nothing has been reported for too long")

    @property
    def _stalled(self) -> bool:
        minutes = self._plan.sweep.budget.no_progress_minutes
        return minutes is not None and time.monotonic() - self._progressed > minutes * 60

    def check_progress(self) -> None:
        """Refuse to continue if nothing has happened for `budget.no_progress_minutes`.

        Raises:
            UnfinishedError: with the minutes.
        """
        if self._stalled:
            minutes = self._plan.sweep.budget.no_progress_minutes
            raise UnfinishedError(
                f"sweep {self._plan.sweep.name}: no trial has reported anything for {minutes:g} minutes "
                f"(budget.no_progress_minutes): look at the cluster's pods and at logs of its autoscaler; "
                f"finished trials are kept, and the same command resumes"
            )

    def _wind_down(self, reason: str) -> None:
        """Ask trainings for a checkpoint, wait for them, and end the launch."""
        if self._deadline is None:
            self._deadline = time.monotonic() + HAND_BACK_SECONDS
            self._queue.end()
            for job in self._queue.training:
                self._students.store.write(job.stop_request, INTERRUPTED.encode())
            count = len(self._queue.training)
            logger.info("%s: %d trainings write a checkpoint; Ctrl-C to end at once", reason, count)
        if not self._queue.training or time.monotonic() > self._deadline:
            raise KeyboardInterrupt

    def _release(self, trial: Any) -> None:
        """Release what the training group of a dead process still holds."""
        group = self._placement_groups.pop(trial.trial_id, None)
        if group is not None:
            release(group)

    def _ended(self, trial: Any, error: str) -> None:
        self._progressed = time.monotonic()
        job = trial.config["job"]
        self._budget.end(job_name(job))
        if isinstance(job, InferenceJob):
            self._students.drawn(job, error)
        elif self._ledger.ended(job, error):
            self._students.ready(job.trial)
        self._queue.forget(trial.trial_id)


def _process_died(trial: Any) -> bool:
    """Return true if the trial's process died, false if its work raised an error."""
    file = trial.pickled_error_file
    if not file or not os.path.exists(file):
        return False
    return isinstance(pickle.loads(Path(file).read_bytes()), ray.exceptions.RayActorError)
