"""The driver's book of a launch: every trial's state, written to MLflow and to the storage."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.config.ranking import NAMES, find_score, format_score
from orchestrator.jobs import PRUNED, TrainingJob
from orchestrator.planning.plan import Trial
from orchestrator.tracking import Tracker
from orchestrator.training.watchdog import collect_hang_reports
from orchestrator.training.worker_logs import read_logs
from workloads.scorers.score import Score

Status = Literal["waiting", "running", "interrupted", "finished", "collapsed", "stopped", "failed"]
NO_CURVES = ("progress",)
"""Numbers that a worker reports for others to read; all others of its reports are curves."""
OF_NOW = ("trial", "started", "checkpointed", "groups")
"""What is known of a trial in this launch alone."""


@dataclass
class Entry:
    """What is known of one trial."""

    trial: Trial
    run: str
    status: Status = "waiting"
    step: int = 0
    rate: float = 0.0
    """Steps a second, of late."""
    started: float = 0.0
    checkpointed: float = 0.0
    """Both by the driver's monotonic clock; 0: not in this launch."""
    groups: int = 0
    """Times that its workers were started in this launch."""
    train_seconds: float = 0.0
    """Spent in training steps, without start-up and looking; of steps done twice, once."""
    scores: list[Score] = field(default_factory=list)
    note: str = ""
    """Why it collapsed, stopped or failed."""
    model: str = ""
    """models:/NAME/VERSION, once it is registered."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """What the second search found, an arm an item; see `curve`."""
    best: dict[str, Any] = field(default_factory=dict)
    """The arm that the student uses by default."""
    concluded: str = ""
    """Digest of the second search that `curve` is the whole of."""
    sheet: str = ""
    """The newest contact sheet's file in the storage."""
    strengths: str = ""
    """File of the sheet of pairs by strength in the storage."""
    checkpoint: str = ""
    checkpoint_digest: str = ""
    zero_stage: int = 0
    identity: dict[str, Any] = field(default_factory=dict)
    """What the trial was when it ended; see `continuity`."""
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By step, what its workers reported; empty once MLflow has all of it."""


class Ledger:
    """Keeps an `Entry` for each trial; the only place where a trial's end is decided."""

    def __init__(self, store: Store, folder: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._store, self._folder, self._tracker, self.say = store, folder, tracker, say
        self.entries: dict[str, Entry] = {}
        self.restarts = 0
        """Times that a training began again, after the first time."""
        self._writing = Lock()

    def keep(self, trial: Trial, stopped: bool) -> bool:
        """Takes up a trial whose result the storage holds; false if it holds none.

        `stopped`: whether it is a result that a scheduler stopped the training; else that goes on from
        the checkpoint it wrote. What a launch that died had not recorded of it is recorded now.

        Raises:
            UserError: its run is not in this MLflow.
        """
        name = result_file(self._folder, trial)
        if not self._store.exists(name):
            return False
        kept = self._store.read_json(name)
        if kept["status"] == "stopped" and not stopped:
            return False
        kept["scores"] = [Score(**score) for score in kept["scores"]]
        kept["reports"] = {int(step): report for step, report in kept["reports"].items()}
        entry = self.entries[trial.digest] = Entry(trial=trial, **kept)
        self._tracker.check_holds(entry.run, trial.name)
        if entry.reports:
            for report in entry.reports.values():
                self._log(entry, report)
            self._record_end(entry)
        return True

    def add(self, trial: Trial, run: str, identity: dict[str, Any]) -> None:
        """Takes up a trial that is to be run, recorded in the MLflow run `run`."""
        self.entries[trial.digest] = Entry(trial, run, identity=identity)

    def started(self, job: TrainingJob) -> None:
        entry = self.entries[job.trial.digest]
        entry.status, entry.started = "running", time.monotonic()

    def reported(self, job: TrainingJob, metrics: dict[str, Any]) -> None:
        """Takes a worker's report: curves, sheets, scores, checkpoints, and the end."""
        entry = self.entries[job.trial.digest]
        if "held_since" in metrics:
            self.restarts += entry.groups > 0
            entry.groups += 1
        for note in metrics.get("notes", ()):
            self.say(f"{entry.trial.name}: {note}")
        if metrics.get("resumed"):
            entry.step = metrics["resumed"]
            self.say(f"{entry.trial.name}: goes on after step {entry.step}")
        for report in (*metrics.get("history", ()), metrics):
            if "student_loss" in report or "sheet" in report:
                self._take(entry, report)
        if "checkpoint" in metrics:
            self._checkpointed(entry, job, metrics)
        if "handed_back" in metrics:
            pruned = metrics["handed_back"] == PRUNED
            stopped: tuple[Status, str] = ("stopped", f"{PRUNED} at step {entry.step}")
            entry.status, entry.note = stopped if pruned else ("interrupted", "")
        if metrics.get("failed"):
            entry.status, entry.note = "failed", last_line(metrics["failed"])
            self._tracker.log_text(entry.run, metrics["failed"], "error.txt")
        if metrics.get("finished"):
            entry.status = "collapsed" if metrics["collapsed"] else "finished"
            entry.note, entry.zero_stage = metrics["collapsed"], metrics["zero_stage"]

    def ended(self, job: TrainingJob, error: str) -> bool:
        """The trial is over: keeps its result; true if it made a student."""
        entry = self.entries[job.trial.digest]
        self._store.delete(job.notice)
        if entry.status == "interrupted":
            self._store.delete_folder(job.notes)
            return False
        if entry.status in ("waiting", "running"):
            entry.status, entry.note = "failed", last_line(error or "ended without a result")
        if entry.status == "failed":
            entry.note = "; ".join([entry.note, *collect_hang_reports(self._store, job.hangs)])
            self._keep_logs(entry, job)
        if error:
            self._tracker.log_text(entry.run, error, "error.txt")
        self._store.delete_folder(job.notes)
        if entry.status != "failed":
            self.write(entry)
        self._record_end(entry)
        score = _ranking(entry, job.ranked_by)
        self.say(f"{entry.trial.name}: {entry.status}{score}{' ' + entry.note if entry.note else ''}")
        return entry.status == "finished"

    def _keep_logs(self, entry: Entry, job: TrainingJob) -> None:
        """Puts what the last workers wrote to their logs into the trial's run."""
        for file, text in read_logs(self._store, job.notes).items():
            self._tracker.log_text(entry.run, redact(text), f"logs/{file}")

    def write(self, entry: Entry) -> None:
        """Keeps what is known of a trial as its result."""
        with self._writing:
            self._store.write_json(result_file(self._folder, entry.trial), _kept(entry))

    def interrupted(self) -> None:
        """The launch ends with trials unfinished: their runs say so until it is taken up again."""
        for entry in self.entries.values():
            if entry.status in ("waiting", "running", "interrupted"):
                self._tracker.finish(entry.run, "KILLED")

    def _take(self, entry: Entry, report: dict[str, Any]) -> None:
        """One report, live or from a checkpoint's history; steps that are done twice count once."""
        kept = _curves(report) | {key: report[key] for key in ("step", "sheet", "scores") if key in report}
        entry.reports[report["step"]] = entry.reports.get(report["step"], {}) | kept
        entry.step = report["step"]
        entry.train_seconds = _train_seconds(entry.reports)
        if "seconds_per_step" in report:
            entry.rate = 1 / report["seconds_per_step"]
        if "scores" in report:
            entry.scores = [Score(**score) for score in report["scores"]]
        entry.sheet = report.get("sheet", entry.sheet)
        self._log(entry, kept)

    def _log(self, entry: Entry, report: dict[str, Any]) -> None:
        curves = _curves(report)
        curves |= {score["metric"]: score["value"] for score in report.get("scores", ())}
        self._tracker.log_metrics(entry.run, report["step"], curves)
        if "sheet" in report:
            content = self._store.read(report["sheet"])
            self._tracker.log_picture(entry.run, "sheet", report["step"], content)

    def _checkpointed(self, entry: Entry, job: TrainingJob, metrics: dict[str, Any]) -> None:
        entry.checkpointed = time.monotonic()
        entry.checkpoint, entry.checkpoint_digest = metrics["checkpoint"], metrics["checkpoint_digest"]
        tags = {"checkpoint": entry.checkpoint, "checkpoint_sha256": entry.checkpoint_digest}
        self._tracker.set_tags(entry.run, tags)
        if job.uploads and self._store.local:
            folder = Path(entry.checkpoint)
            self._tracker.upload(entry.run, folder, f"checkpoints/{folder.name}")

    def _record_end(self, entry: Entry) -> None:
        tags = {"status": entry.status, "note": entry.note, "zero_stage": str(entry.zero_stage)}
        tags |= {"checkpoint": entry.checkpoint, "checkpoint_sha256": entry.checkpoint_digest}
        self._tracker.set_tags(entry.run, tags)
        self._tracker.log_json(entry.run, [asdict(score) for score in entry.scores], "scores.json")
        self._tracker.finish(entry.run, "FAILED" if entry.status == "failed" else "FINISHED")
        self._tracker.then(lambda: self._recorded(entry))

    def _recorded(self, entry: Entry) -> None:
        """MLflow has all of it, so that the storage need not keep the reports any more."""
        entry.reports = {}
        if entry.status != "failed":
            self.write(entry)


def result_file(folder: str, trial: Trial) -> str:
    """Where the storage keeps a trial's result, for the sweep in `folder`."""
    return f"{folder}/results/{trial.digest}.json"


def _kept(entry: Entry) -> dict[str, Any]:
    kept = {key: value for key, value in vars(entry).items() if key not in OF_NOW}
    return {**kept, "scores": [asdict(score) for score in entry.scores]}


def _train_seconds(reports: Mapping[int, Mapping[str, Any]]) -> float:
    steps = sorted(step for step, report in reports.items() if "seconds_per_step" in report)
    stretches = zip([0, *steps], steps, strict=False)
    return float(sum((last - first) * reports[last]["seconds_per_step"] for first, last in stretches))


def _ranking(entry: Entry, metric: str | None) -> str:
    score = find_score(entry.scores, metric)
    return "" if score is None else f", {NAMES[score.metric]} {format_score(score.metric, score.value)}"


def last_line(error: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith("File")]
    return (named or lines or [""])[-1][:300]


def _curves(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a report that make curves: losses, whatever the objective tells, speed, the system."""
    return {key: each for key, each in report.items() if isinstance(each, float) and key not in NO_CURVES}
