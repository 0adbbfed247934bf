"""Typed results of a sweep: one row a trial, one row a strength of attention guidance, and their summary.

`to_json` gives the form that `summary.json` and the results in the storage hold, `from_json` reads it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workloads.scorers.score import Score, find_score, scores_from_json
from workloads.settings.train import AttentionGuidanceSettings

RESULTS = ("finished", "collapsed", "stopped")
"""Statuses of a trial that has a result."""


@dataclass(frozen=True)
class PairRow:
    """A prompt with its negative prompt, at one strength."""

    prompt: str
    negative_prompt: str
    negative_rate: float | None = None
    """Share of pictures that show what the negative prompt names, if it was measured."""


@dataclass(frozen=True)
class ArmRow:
    """A student at one guidance scale and one strength of attention guidance."""

    guidance: AttentionGuidanceSettings
    scores: tuple[Score, ...] = ()
    pairs: tuple[PairRow, ...] = ()
    scale: float | None = None
    """Guidance scale; None for a student that was not drawn at several."""
    at_scale: tuple[Score, ...] = ()
    """Scores of the plain student at this scale, measured as those at the end of its training."""

    @property
    def label(self) -> str:
        """The kernel, without its strength."""
        return self.guidance.label

    @property
    def strength(self) -> float:
        return self.guidance.strength

    @property
    def is_plain(self) -> bool:
        """True for the student without guidance."""
        return self.guidance.kind == "none"

    @property
    def name(self) -> str:
        """Kernel and strength."""
        return "plain" if self.is_plain else f"{self.label} {self.strength:g}"

    @property
    def metrics(self) -> list[str]:
        """Names of the measured scores, in their order."""
        return [score.metric for score in self.scores]

    def score(self, metric: str) -> Score | None:
        """Return the score `metric`; None if it was not measured."""
        return find_score(self.scores, metric)

    def value(self, metric: str, default: float = 0.0) -> float:
        """Return the value of the score `metric`; `default` if it was not measured."""
        found = self.score(metric)
        return default if found is None else found.value

    def to_json(self) -> dict[str, Any]:
        pairs = [{k: v for k, v in asdict(pair).items() if v is not None} for pair in self.pairs]
        scores = [asdict(score) for score in self.scores]
        row = {"label": self.label, **asdict(self.guidance), "scores": scores, "pairs": pairs}
        if self.scale is None:
            return row
        return {**row, "scale": self.scale, "at_scale": [asdict(score) for score in self.at_scale]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ArmRow":
        guidance = {key: stored[key] for key in ("kind", "strength", "clip", "blend")}
        pairs = tuple(PairRow(**pair) for pair in stored["pairs"])
        scores, at_scale = (tuple(scores_from_json(stored.get(key, ()))) for key in ("scores", "at_scale"))
        return cls(AttentionGuidanceSettings(**guidance), scores, pairs, stored.get("scale"), at_scale)


def scale_name(interval: str) -> str:
    """Format a guidance interval as papers do: U(1, 5) or, for a fixed scale, 3."""
    low, dash, high = interval.partition("-")
    return f"U({low}, {high})" if dash else low


@dataclass(frozen=True)
class TrialRow:
    """A training and its student."""

    trial: str
    digest: str
    backbone: str
    interval: str
    """Guidance interval, as in 1-5, or a fixed scale."""
    seed: int
    status: str
    note: str
    """Reason of a collapse, a stop or a failure."""
    metric: str | None
    """Metric that trials are ranked by; None if it was not measured."""
    score: float | None
    score_low: float | None
    score_high: float | None
    teacher_score: float | None
    scores: tuple[Score, ...]
    teacher_scores: tuple[Score, ...]
    train_seconds: float
    settings: Mapping[str, Any]
    run: str
    """MLflow run."""
    model: str
    """URI of the registered student, models:/NAME/VERSION."""
    champion: bool
    """True for the best student of its backbone."""
    curve: tuple[ArmRow, ...]
    """The second search, the plain student first."""
    best: ArmRow | None
    """The strength that the student uses by default."""
    checkpoint: str
    checkpoint_sha256: str
    zero_stage: int
    seconds_per_picture: float | None = None
    """Seconds in which the student drew a picture for its scores; None if it was not measured."""
    teacher: str = ""
    """Model of the teacher; empty in results of earlier versions."""
    course: tuple[Mapping[str, float], ...] = ()
    """`seconds` of training and scores by metric at each evaluation; empty in results of earlier versions."""

    @property
    def student_steps(self) -> int:
        """Network calls with which the student draws; 1 in results of earlier versions."""
        return int(self.settings.get("student_steps", 1))

    @property
    def scales(self) -> list[float]:
        """Guidance scales at which the student was drawn, in rising order; empty for most."""
        return list(dict.fromkeys(arm.scale for arm in self.curve if arm.scale is not None))

    @property
    def by_scale(self) -> list[tuple[str, tuple[ArmRow, ...]]]:
        """The arms at each scale, with its name; for most students all arms, with that of the interval."""
        if not self.scales:
            return [(scale_name(self.interval), self.curve)]
        return [(f"{k:g}", tuple(arm for arm in self.curve if arm.scale == k)) for k in self.scales]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics of the second search, in their order."""
        return list(dict.fromkeys(metric for arm in self.curve for metric in arm.metrics))

    def to_json(self) -> dict[str, Any]:
        rows = {
            "curve": [arm.to_json() for arm in self.curve],
            "best": self.best.to_json() if self.best else {},
        }
        scores = {key: [asdict(s) for s in getattr(self, key)] for key in ("scores", "teacher_scores")}
        return {**vars(self), **scores, **rows, "course": list(self.course)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "TrialRow":
        rows = {
            "course": tuple(stored.get("course", ())),
            "scores": scores_from_json(stored["scores"]),
            "teacher_scores": scores_from_json(stored["teacher_scores"]),
            "curve": tuple(ArmRow.from_json(arm) for arm in stored["curve"]),
            "best": ArmRow.from_json(stored["best"]) if stored["best"] else None,
        }
        return cls(**{**stored, **rows})


@dataclass(frozen=True)
class SweepSummary:
    """The content of `summary.json`."""

    name: str
    launch: str
    """Digest of the resolved sweep file."""
    seconds: float
    """Duration of this launch."""
    infer_failures: tuple[str, ...]
    """One line for each student that could not be drawn, scored or registered."""
    gpu_hours: float
    """GPU-hours that trials have held, over all launches."""
    cost: float | None
    """Their price by `budget.price_per_gpu_hour`."""
    spent: str
    """Both in words; empty for a sweep without GPUs."""
    prompts: Mapping[str, Any]
    """Prompts `used` and `set_aside`, `files_left_out`, prompts that are `cut` to a text encoder's tokens by
    backbone, and the `digest` of the used ones."""
    tracking: Mapping[str, str]
    """MLflow's `uri`, `experiment`, `experiment_id` and `parent_run`."""
    trials: tuple[TrialRow, ...]
    """In the order of the plan."""

    @property
    def failed(self) -> int:
        """Trials without a result."""
        return sum(row.status not in RESULTS for row in self.trials)

    @property
    def complete(self) -> bool:
        """True if every trial has a result and every student is registered."""
        return not (self.failed or self.infer_failures)

    @property
    def strengths(self) -> int:
        """Strengths at which students were drawn."""
        return sum(len(row.curve) for row in self.trials)

    def count(self, status: str) -> int:
        """Return the number of trials of this status; `failed` counts all without a result."""
        return self.failed if status == "failed" else sum(row.status == status for row in self.trials)

    def to_json(self) -> dict[str, Any]:
        counts = {status: self.count(status) for status in (*RESULTS, "failed")}
        sizes = {"trainings": len(self.trials), "infer_trials": self.strengths}
        return {
            **vars(self),
            **counts,
            **sizes,
            "infer_failures": list(self.infer_failures),
            "trials": [row.to_json() for row in self.trials],
        }
