"""The state of every trial of a launch, kept by the driver and written to MLflow and to the storage."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.jobs import (
    PRUNED,
    CheckpointFailed,
    CheckpointWritten,
    Ended,
    Event,
    Failed,
    GroupStarted,
    HandedBack,
    Resumed,
    StepReport,
    TrainingJob,
    WorkerReport,
)
from orchestrator.planning.plan import Trial
from orchestrator.results.record import TrialRecord
from orchestrator.tracking.client import Tracker
from orchestrator.training.watchdog import collect_hang_reports
from orchestrator.training.worker_logs import read_logs

logger = logging.getLogger(__name__)


class Ledger:
    """A `TrialRecord` for each trial; the only place that decides how a trial ended."""

    def __init__(self, store: Store, folder: str, tracker: Tracker) -> None:
        """Create an empty ledger of the sweep in the storage's `folder`."""
        self._store, self._folder, self._tracker = store, folder, tracker
        self.records: dict[str, TrialRecord] = {}
        """Records by trial digest."""
        self.restarts = 0
        """Training groups that were started again, over all trials."""
        self._writing = Lock()

    def restore(self, trial: Trial, keep_stopped: bool) -> bool:
        """Restore a trial from its result in the storage; return false if there is none.

        Records of it that a killed launch did not send to MLflow are sent now.

        Args:
            trial: the trial.
            keep_stopped: true if a training that the scheduler stopped counts as a result; otherwise it
                resumes from its checkpoint.

        Raises:
            UserError: the trial's run does not exist in this MLflow.
        """
        name = result_file(self._folder, trial)
        if not self._store.exists(name):
            return False
        record = TrialRecord.from_json(trial, self._store.read_json(name))
        if record.status == "stopped" and not keep_stopped:
            return False
        self.records[trial.digest] = record
        self._tracker.keep_trial(record.run, trial.name)
        if record.reports:
            for report in record.reports.values():
                self._log(record, report)
            self._record_end(record)
        return True

    def add(self, trial: Trial, run: str, identity: dict[str, Any]) -> None:
        """Add a trial that is to run, recorded in the MLflow run `run`."""
        self.records[trial.digest] = TrialRecord(trial, run, identity=identity)

    def started(self, job: TrainingJob) -> None:
        """Mark a trial as running."""
        record = self.records[job.trial.digest]
        record.status, record.started = "running", time.monotonic()
        logger.debug("%s: started, MLflow run %s", record.name, record.run)

    def reported(self, job: TrainingJob, report: WorkerReport) -> None:
        """Apply the events of a worker's report."""
        for event in report.events:
            self._apply(self.records[job.trial.digest], job, event)

    def _apply(self, record: TrialRecord, job: TrainingJob, event: Event) -> None:
        match event:
            case GroupStarted():
                self.restarts += record.groups > 0
                record.groups += 1
            case Resumed():
                self._resumed(record, event)
            case StepReport():
                self._take(record, event)
            case CheckpointWritten():
                self._checkpointed(record, job, event)
            case CheckpointFailed(uri, problem):
                logger.warning(
                    "%s: checkpoint %s cannot be written: %s; the training continues",
                    record.name,
                    uri,
                    problem,
                )
            case HandedBack(reason):
                pruned = reason == PRUNED
                record.status = "stopped" if pruned else "interrupted"
                record.note = f"{PRUNED} at step {record.step}" if pruned else ""
            case Failed(error):
                record.status, record.note = "failed", last_line(error)
                self._tracker.log_text(record.run, error, "error.txt")
            case Ended(zero_stage, collapsed):
                record.status = "collapsed" if collapsed else "finished"
                record.note, record.zero_stage = collapsed, zero_stage

    def ended(self, job: TrainingJob, error: str) -> bool:
        """Record the end of a trial's process; return true if it left a student.

        Args:
            job: the training.
            error: traceback of the process, empty if there is none.
        """
        record = self.records[job.trial.digest]
        self._store.delete(job.stop_request)
        if record.status == "interrupted":
            self._store.delete_folder(job.workers)
            return False
        if record.status in ("waiting", "running"):
            record.status, record.note = "failed", last_line(error or "ended without a result")
        if record.status == "failed":
            record.note = "; ".join([record.note, *collect_hang_reports(self._store, job.hangs)])
            self._keep_logs(record, job)
        if error:
            self._tracker.log_text(record.run, error, "error.txt")
        self._store.delete_folder(job.workers)
        if record.status != "failed":
            self.write(record)
        self._record_end(record)
        score = record.describe_score(job.ranked_by)
        parts = f"{record.status}{f', {score}' if score else ''}{f' {record.note}' if record.note else ''}"
        logger.info("%s: %s", record.name, parts)
        return record.status == "finished"

    def write(self, record: TrialRecord) -> None:
        """Write a trial's result to the storage."""
        with self._writing:
            self._store.write_json(result_file(self._folder, record.trial), record.to_json())

    def interrupted(self) -> None:
        """Mark the runs of unfinished trials as killed, until a later launch resumes them."""
        for record in self.records.values():
            if record.status in ("waiting", "running", "interrupted"):
                self._tracker.finish(record.run, "KILLED")

    def _resumed(self, record: TrialRecord, event: Resumed) -> None:
        for note in event.notes:
            logger.warning("%s: %s", record.name, note)
        if event.step:
            record.step = event.step
            logger.info("%s: resumes after step %d", record.name, event.step)
        for report in event.history:
            self._take(record, report)

    def _take(self, record: TrialRecord, report: StepReport) -> None:
        record.add(report)
        logger.debug("%s: step %d: %s", record.name, report.step, _metrics_text(report))
        self._log(record, report)

    def _log(self, record: TrialRecord, report: StepReport) -> None:
        scores = {score.metric: score.value for score in report.scores}
        self._tracker.log_metrics(record.run, report.step, {**report.metrics, **scores})
        if report.sheet:
            self._tracker.log_picture(record.run, "sheet", report.step, self._store.read(report.sheet))

    def _checkpointed(self, record: TrialRecord, job: TrainingJob, event: CheckpointWritten) -> None:
        record.checkpointed = time.monotonic()
        record.checkpoint, record.checkpoint_digest = event.uri, event.digest
        logger.debug("%s: checkpoint %s", record.name, event.uri)
        self._tracker.set_tags(record.run, _checkpoint_tags(record))
        if job.uploads and self._store.local:
            folder = Path(event.uri)
            self._tracker.upload(record.run, folder, f"checkpoints/{folder.name}")

    def _keep_logs(self, record: TrialRecord, job: TrainingJob) -> None:
        for file, text in read_logs(self._store, job.workers).items():
            self._tracker.log_text(record.run, redact(text), f"logs/{file}")

    def _record_end(self, record: TrialRecord) -> None:
        tags = {"status": record.status, "note": record.note, "zero_stage": str(record.zero_stage)}
        self._tracker.set_tags(record.run, tags | _checkpoint_tags(record))
        self._tracker.log_json(record.run, [asdict(score) for score in record.scores], "scores.json")
        self._tracker.finish(record.run, "FAILED" if record.status == "failed" else "FINISHED")
        self._tracker.then(lambda: self._recorded(record))

    def _recorded(self, record: TrialRecord) -> None:
        """Drop the reports from the storage once MLflow has all of them."""
        record.reports = {}
        if record.status != "failed":
            self.write(record)


def result_file(folder: str, trial: Trial) -> str:
    """Return the file of a trial's result in the storage, for the sweep in `folder`."""
    return f"{folder}/results/{trial.digest}.json"


def recorded_run(store: Store, folder: str) -> str | None:
    """Return the MLflow run of any trial with a result in the storage's `folder`; None without one."""
    results = store.files(f"{folder}/results")
    return None if not results else store.read_json(results[0])["run"]


def last_line(error: str) -> str:
    """Return the line of a traceback that names the error."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith("File")]
    return (named or lines or [""])[-1][:300]


def _checkpoint_tags(record: TrialRecord) -> dict[str, str]:
    return {"checkpoint": record.checkpoint, "checkpoint_sha256": record.checkpoint_digest}


def _metrics_text(report: StepReport) -> str:
    values = {**report.metrics, **{score.metric: score.value for score in report.scores}}
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
