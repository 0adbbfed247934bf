"""The driver's book of a launch: every trial's state, written to MLflow and to the storage."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from orchestrator.plan import Trial
from orchestrator.storage import Store
from orchestrator.tracking import Tracker
from orchestrator.trial_job import TrialJob
from workloads.scorers.score import Score

Status = Literal["waiting", "running", "finished", "collapsed", "stopped", "failed"]
CURVES = (
    "student_loss", "fake_score_loss", "score_gap", "latent_spread", "seconds_per_step",
    "samples_per_second", "system/cpu_utilization_percentage",
    "system/process_memory_megabytes", "system/gpu_peak_memory_megabytes",
)  # fmt: skip
PROGRESS_SECONDS = 15.0
HEADLINE = "attribute_accuracy"


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
    train_seconds: float = 0.0
    """Spent in training steps, without start-up and looking."""
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


class Ledger:
    """Keeps an `Entry` for each trial; the only place where a trial's end is decided."""

    def __init__(self, store: Store, folder: str, tracker: Tracker, out: TextIO) -> None:
        self._store, self._folder, self._tracker, self._out = store, folder, tracker, out
        self.entries: dict[str, Entry] = {}
        self._last_progress = 0.0

    def keep(self, trial: Trial) -> bool:
        """Takes up a trial whose result the storage holds; false if it holds none."""
        if not self._store.exists(self._result(trial)):
            return False
        kept = self._store.read_json(self._result(trial))
        kept["scores"] = [Score(**score) for score in kept["scores"]]
        self.entries[trial.digest] = Entry(trial=trial, **kept)
        return True

    def add(self, trial: Trial, run: str) -> None:
        """Takes up a trial that is to be run, recorded in the MLflow run `run`."""
        self.entries[trial.digest] = Entry(trial, run)

    def started(self, job: TrialJob) -> None:
        entry = self.entries[job.trial.digest]
        entry.status, entry.started = "running", time.monotonic()

    def reported(self, job: TrialJob, metrics: dict[str, Any]) -> None:
        """Takes a worker's report: curves, sheets, scores, checkpoints, and the end."""
        entry = self.entries[job.trial.digest]
        if "seconds_per_step" in metrics:
            entry.train_seconds += max(metrics["step"] - entry.step, 0) * metrics["seconds_per_step"]
            entry.rate = 1 / metrics["seconds_per_step"]
        entry.step = metrics["step"]
        curves = {key: metrics[key] for key in CURVES if key in metrics}
        if "scores" in metrics:
            entry.scores = metrics["scores"]
            curves |= {score.metric: score.value for score in entry.scores}
        self._tracker.log_metrics(entry.run, entry.step, curves)
        if "sheet" in metrics:
            entry.sheet = metrics["sheet"]
            content = self._store.read(entry.sheet)
            self._tracker.log_picture(entry.run, "sheet", entry.step, content)
        if "checkpoint_path" in metrics:
            entry.checkpoint = metrics["checkpoint_path"]
            entry.checkpoint_digest = metrics["checkpoint_digest"]
            digest = {"checkpoint": entry.checkpoint, "checkpoint_sha256": entry.checkpoint_digest}
            self._tracker.set_tags(entry.run, digest)
            if job.uploads and self._store.local:
                folder = Path(entry.checkpoint)
                self._tracker.upload(entry.run, folder, f"checkpoints/{folder.name}")
        if metrics.get("finished"):
            entry.status = "collapsed" if metrics["collapsed"] else "finished"
            entry.note, entry.zero_stage = metrics["collapsed"], metrics["zero_stage"]

    def ended(self, job: TrialJob, error: str) -> bool:
        """The trial is over: keeps its result; true if it made a student."""
        entry = self.entries[job.trial.digest]
        if entry.status == "running":
            entry.status = "failed" if error else "stopped"
            entry.note = last_line(error) if error else f"by the scheduler at step {entry.step}"
        if error:
            self._tracker.log_text(entry.run, error, "error.txt")
        tags = {"status": entry.status, "note": entry.note, "zero_stage": str(entry.zero_stage)}
        self._tracker.set_tags(entry.run, tags)
        self._tracker.log_json(entry.run, [asdict(score) for score in entry.scores], "scores.json")
        self._tracker.finish(entry.run, "FAILED" if entry.status == "failed" else "FINISHED")
        if entry.status != "failed":
            self.write(entry)
        self.say(
            f"{entry.trial.name}: {entry.status}{_accuracy(entry)}{' ' + entry.note if entry.note else ''}"
        )
        return entry.status == "finished"

    def write(self, entry: Entry) -> None:
        """Keeps what is known of a trial as its result."""
        self._store.write_json(self._result(entry.trial), self._kept(entry))

    def interrupted(self) -> None:
        """The launch ends with trials unfinished: their runs say so until it is taken up again."""
        for entry in self.entries.values():
            if entry.status in ("waiting", "running"):
                self._tracker.finish(entry.run, "KILLED")

    def tick(self, more: str = "") -> None:
        """Prints progress, now and then."""
        if time.monotonic() - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = time.monotonic()
            self.say(progress_line(list(self.entries.values())) + more)

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _result(self, trial: Trial) -> str:
        return f"{self._folder}/results/{trial.digest}.json"

    @staticmethod
    def _kept(entry: Entry) -> dict[str, Any]:
        kept = {key: value for key, value in vars(entry).items() if key not in ("trial", "started")}
        return {**kept, "scores": [asdict(score) for score in entry.scores], "rate": entry.rate}


def headline(entry: Entry) -> Score | None:
    """The score that trials are ranked by."""
    return next((score for score in entry.scores if score.metric == HEADLINE), None)


def progress_line(entries: Sequence[Entry]) -> str:
    """Trials done, running and waiting; of each running one its step, rate and time left."""
    count = {status: sum(e.status == status for e in entries) for status in ("waiting", "running")}
    done = len(entries) - count["waiting"] - count["running"]
    running = [_running(entry) for entry in entries if entry.status == "running"]
    head = f"{done} of {len(entries)} trials done, {count['running']} running, {count['waiting']} waiting"
    return " | ".join([head, *running])


def _running(entry: Entry) -> str:
    steps = entry.trial.train.steps
    if not entry.step:
        return f"{entry.trial.name}: starting, {time.monotonic() - entry.started:.0f} s"
    left = (steps - entry.step) / (entry.rate or math.inf)
    return f"{entry.trial.name}: step {entry.step}/{steps}, {entry.rate:.2f}/s, {left:.0f} s left"


def _accuracy(entry: Entry) -> str:
    score = headline(entry)
    return f", accuracy {100 * score.value:.1f} %" if score else ""


def last_line(error: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and not line.startswith("File")]
    return (named or lines or [""])[-1][:300]
