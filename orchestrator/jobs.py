"""The messages that cross processes: jobs go down from the driver, reports come up from the workers.

    Plan -> TrainingJob -> training group -> WorkerReport -> Ledger -> tracking
    Plan -> InferenceJob -> process that draws -> pictures in the storage

All of it is plain, frozen data. A `WorkerReport` is a sequence of events, one type per kind of event.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

from orchestrator.config.evaluation_schema import Evaluate, Pair
from orchestrator.config.schema import Resources
from orchestrator.data.shard_order import ShardSet
from orchestrator.planning.inference import InferenceTrial
from orchestrator.planning.plan import Trial
from workloads.scorers.score import Score, find_score, scores_from_json

INTERRUPTED, PRUNED = "the sweep is interrupted", "stopped by the scheduler"
"""Reasons for which the driver ends a training early."""
REPORT, PROGRESS = "report", "progress"
"""Keys of a result as Ray Tune receives it: the `WorkerReport`, and the percentage of steps done."""
SECONDS_PER_PICTURE = "seconds_per_picture"
"""Metric of an evaluation: seconds in which the student draws and decodes a picture, in batches, while its
training pauses."""


@dataclass(frozen=True)
class TrainingJob:
    """One trial, and the places of its inputs and outputs."""

    trial: Trial
    shards: ShardSet
    negatives: ShardSet | None
    """Negative prompts of NASA-T."""
    reference: str
    """File of the backbone's reference in the storage."""
    root: str
    """URI of the storage."""
    folder: str
    """Folder of this trial's sheets and student in the storage."""
    checkpoints: str
    """URI of the folder or bucket that holds the trial's checkpoints."""
    evaluate: Evaluate
    resources: Resources
    node_labels: dict[str, str]
    """Ray labels of the nodes that its workers may run on; see `capacity`."""
    on_one_node: bool
    """True: all workers are placed on one node, since every node that holds some of them holds all."""
    ranked_by: str | None
    """Metric that trials and checkpoints are ranked by."""

    @property
    def stop_request(self) -> str:
        """File in the storage whose existence asks the workers to stop; its text is the reason."""
        return f"{self.folder}/notice"

    @property
    def hangs(self) -> str:
        """Folder in the storage for the reports of workers that hang."""
        return f"{self.folder}/hangs"

    @property
    def workers(self) -> str:
        """Folder in the storage in which each worker registers its node and log files."""
        return f"{self.folder}/workers"

    @property
    def label(self) -> str:
        """Sweep and trial, as they appear in log lines."""
        return f"{self.folder.partition('/')[0]}/{self.trial.name}"

    @property
    def uploads(self) -> bool:
        """True if Ray cannot write to MLflow's artifact store, so that the driver uploads checkpoints."""
        return self.checkpoints == f"{self.root}/{self.folder}"

    @property
    def student(self) -> str:
        """Folder of the finished student in the storage."""
        return f"{self.folder}/student"

    @property
    def eval_steps(self) -> frozenset[int]:
        """Steps after which the student is evaluated: evenly spaced, the last at the end."""
        steps, count = self.trial.train.steps, self.evaluate.evaluations
        return frozenset(round(steps * (index + 1) / count) for index in range(count))


@dataclass(frozen=True)
class InferenceJob:
    """One trial of the second search, and the places of its inputs and outputs."""

    infer: InferenceTrial
    pairs: tuple[Pair, ...]
    pictures: int
    """Pictures of each pair."""
    seed: int
    reference: str
    """File of the backbone's reference in the storage."""
    root: str
    """URI of the storage."""
    student: str
    """Folder of the student in the storage."""
    folder: str
    """Folder of the sweep in the storage."""
    gpus: float
    """GPUs that it holds, of which it may use that share of the memory; 0: it draws on a CPU."""
    evaluate: Evaluate
    """What is drawn and scored at a guidance scale."""

    @property
    def results(self) -> tuple[str, ...]:
        """Files in the storage that exist when the trial is over."""
        pairs = (self.measured,) if self.pairs else ()
        return (*pairs, self.at_scale) if self.infer.scores_scale else pairs

    @property
    def at_scale(self) -> str:
        """File in the storage with the student's scores and sheet at its guidance scale."""
        return f"{self.folder}/measured/{self.infer.digest}.json"

    @property
    def drawn(self) -> str:
        """File of the pictures in the storage."""
        return f"{self.folder}/pictures/{self.infer.digest}.parquet"

    @property
    def measured(self) -> str:
        """File of the pictures' scores in the storage: the trial's result."""
        return f"{self.folder}/measured/{self.infer.digest}.parquet"


class JobConfig(TypedDict):
    """Config of a trial as Ray Tune and Ray Train pass it to processes."""

    job: TrainingJob | InferenceJob
    asked: float
    """Time at which the search asked for the trial, in seconds since 1970."""


@dataclass(frozen=True)
class GroupStarted:
    """The workers run; the first event of every training group."""

    held_since: float
    """Seconds since 1970."""
    placement_group: Any
    """Ray's PlacementGroup, the resources that the group holds."""


@dataclass(frozen=True)
class StepReport:
    """Measurements after a step: losses, speed, and those of an evaluation if one took place."""

    step: int
    metrics: Mapping[str, float]
    """Losses, rates and system figures, by name."""
    sheet: str = ""
    """File of the contact sheet in the storage."""
    scores: tuple[Score, ...] = ()

    def score(self, metric: str | None) -> float | None:
        """Return the value of the score `metric`; None if it was not measured."""
        found = find_score(self.scores, metric)
        return None if found is None else found.value

    def merged(self, other: "StepReport | None") -> "StepReport":
        """Return this report with what only `other`, an earlier one of the same step, holds."""
        if other is None:
            return self
        metrics = {**other.metrics, **self.metrics}
        return StepReport(self.step, metrics, self.sheet or other.sheet, self.scores or other.scores)

    def to_json(self) -> dict[str, Any]:
        """Return the flat form that results and checkpoints store."""
        extra: dict[str, Any] = {"sheet": self.sheet} if self.sheet else {}
        if self.scores:
            extra["scores"] = [asdict(score) for score in self.scores]
        return {**self.metrics, **extra, "step": self.step}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StepReport":
        """Read `to_json`'s form, or that of earlier versions, which repeats scores as metrics."""
        scores = scores_from_json(stored.get("scores", ()))
        other = {PROGRESS, *(score.metric for score in scores)}
        metrics = {key: each for key, each in stored.items() if isinstance(each, float) and key not in other}
        return cls(stored["step"], metrics, stored.get("sheet", ""), scores)


@dataclass(frozen=True)
class Resumed:
    """The step after which a group begins, 0 for a new training, and its checkpoint's earlier reports."""

    step: int
    notes: tuple[str, ...] = ()
    """Lines about damaged checkpoints and about workers that hung before."""
    history: tuple[StepReport, ...] = ()


@dataclass(frozen=True)
class CheckpointWritten:
    """A complete checkpoint."""

    uri: str
    digest: str


@dataclass(frozen=True)
class CheckpointFailed:
    """A checkpoint that could not be written; the training continues."""

    uri: str
    problem: str


@dataclass(frozen=True)
class HandedBack:
    """The training stopped early because the driver asked for it; its checkpoint is written."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The training is over: the student is saved, or it has collapsed."""

    zero_stage: int
    collapsed: str = ""
    """Sentence that states the collapse; empty if there was none."""


@dataclass(frozen=True)
class Failed:
    """The training cannot continue."""

    error: str


Event = (
    GroupStarted | Resumed | StepReport | CheckpointWritten | CheckpointFailed | HandedBack | Ended | Failed
)


@dataclass(frozen=True)
class WorkerReport:
    """Events that rank 0 of a training group reports at one time, in the order in which they happened."""

    events: tuple[Event, ...] = field(default=())
    progress: float = 0.0
    """Percentage of the training's steps that are done."""

    @property
    def ended(self) -> bool:
        """True if the training is over."""
        return any(isinstance(event, Ended) for event in self.events)

    def to_tune(self) -> dict[str, Any]:
        """Return the result for Ray Tune, whose scheduler reads progress and scores."""
        steps = (event for event in self.events if isinstance(event, StepReport))
        scores = {score.metric: score.value for event in steps for score in event.scores}
        return {REPORT: self, PROGRESS: self.progress, **scores}
