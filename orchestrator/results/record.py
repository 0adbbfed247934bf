"""The record of one trial: its state in this launch, and the form in which the storage keeps its result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.jobs import SECONDS_PER_PICTURE, StepReport
from orchestrator.planning.plan import Trial
from orchestrator.reporting.formatting import NAMES, format_value
from orchestrator.reporting.rows import ArmRow
from workloads.scorers.score import Score, find_score, scores_from_json

Status = Literal["waiting", "running", "interrupted", "finished", "collapsed", "stopped", "failed"]
NOT_STORED = ("trial", "started", "checkpointed", "groups")
"""Fields that are valid in this launch only."""
SECONDS_PER_STEP = "seconds_per_step"


@dataclass
class TrialRecord:
    """State and results of one trial."""

    trial: Trial
    run: str
    """MLflow run."""
    status: Status = "waiting"
    step: int = 0
    rate: float = 0.0
    """Recent steps a second."""
    started: float = 0.0
    """Time of the start by the driver's monotonic clock; 0 if the trial did not run in this launch."""
    checkpointed: float = 0.0
    """Time of the newest checkpoint by the same clock; 0 if there is none of this launch."""
    groups: int = 0
    """Training groups that were started in this launch."""
    train_seconds: float = 0.0
    """Seconds in training steps, without start-up and evaluation; repeated steps count once."""
    scores: list[Score] = field(default_factory=list)
    note: str = ""
    """Reason of a collapse, a stop or a failure."""
    model: str = ""
    """URI of the registered student, models:/NAME/VERSION."""
    curve: list[ArmRow] = field(default_factory=list)
    """Results of the second search, the plain student first."""
    best: ArmRow | None = None
    """The arm that the student uses by default."""
    concluded: str = ""
    """Digest of the second search that `curve` completes."""
    sheet: str = ""
    """File of the newest contact sheet in the storage."""
    strengths: str = ""
    """File of the sheet of pairs by strength in the storage."""
    scales: str = ""
    """File of the sheet by guidance scale in the storage."""
    checkpoint: str = ""
    checkpoint_digest: str = ""
    zero_stage: int = 0
    seconds_per_picture: float | None = None
    """Seconds in which the student drew a picture at its last evaluation; None if it was not measured."""
    course: dict[int, dict[str, float]] = field(default_factory=dict)
    """`seconds` of training and the scores by metric, by the step of each evaluation."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Settings and digests that the result depends on; see `compatibility`."""
    reports: dict[int, StepReport] = field(default_factory=dict)
    """Reports by step; empty once MLflow has recorded all of them."""

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def default_scores(self) -> list[Score]:
        """Scores of the student as it draws by default: at its default guidance scale, if it reads one."""
        scale = self.best.scale if self.best else None
        at_default = (arm.at_scale for arm in self.curve if arm.scale == scale and arm.at_scale)
        return self.scores if scale is None else list(next(at_default, self.scores))

    def add(self, report: StepReport) -> None:
        """Take in a report, live or from a checkpoint's history; repeated steps count once."""
        self.reports[report.step] = report.merged(self.reports.get(report.step))
        self.step = report.step
        self.train_seconds = _train_seconds(self.reports)
        if SECONDS_PER_STEP in report.metrics:
            self.rate = 1 / report.metrics[SECONDS_PER_STEP]
        self.seconds_per_picture = report.metrics.get(SECONDS_PER_PICTURE, self.seconds_per_picture)
        self.scores = list(report.scores) or self.scores
        if report.scores:
            values = {score.metric: score.value for score in report.scores}
            self.course[report.step] = {"seconds": round(self.train_seconds, 2), **values}
        self.sheet = report.sheet or self.sheet

    def to_json(self) -> dict[str, Any]:
        """Return the trial's result as the storage keeps it."""
        kept = {key: value for key, value in vars(self).items() if key not in NOT_STORED}
        rows = {
            "curve": [arm.to_json() for arm in self.curve],
            "best": self.best.to_json() if self.best else {},
        }
        scores = [asdict(score) for score in self.scores]
        reports = {step: report.to_json() for step, report in self.reports.items()}
        return {**kept, **rows, "scores": scores, "reports": reports}

    @classmethod
    def from_json(cls, trial: Trial, stored: Mapping[str, Any]) -> "TrialRecord":
        """Read the result of `trial`."""
        reports = {int(step): StepReport.from_json(each) for step, each in stored["reports"].items()}
        fields = {
            "curve": [ArmRow.from_json(arm) for arm in stored["curve"]],
            "best": ArmRow.from_json(stored["best"]) if stored["best"] else None,
            "scores": list(scores_from_json(stored["scores"])),
            "reports": reports,
            "course": {int(step): look for step, look in stored.get("course", {}).items()},
        }
        return cls(trial=trial, **{**stored, **fields})

    def describe_score(self, metric: str | None) -> str:
        """Format the score `metric` for a log line; empty if it was not measured."""
        score = find_score(self.scores, metric)
        return "" if score is None else f"{NAMES[score.metric]} {format_value(score.metric, score.value)}"


def _train_seconds(reports: Mapping[int, StepReport]) -> float:
    steps = sorted(step for step, report in reports.items() if SECONDS_PER_STEP in report.metrics)
    stretches = zip([0, *steps], steps, strict=False)
    return float(sum((last - first) * reports[last].metrics[SECONDS_PER_STEP] for first, last in stretches))
