"""What a trial's workers are told: plain data that travels from the driver to every process."""

from dataclasses import dataclass
from typing import Any

from orchestrator.plan import Trial
from orchestrator.shards import ShardSet
from orchestrator.sweep import Evaluate, Resources

Metrics = dict[str, Any]


@dataclass(frozen=True)
class TrialJob:
    """One trial, and where its inputs and outputs are."""

    trial: Trial
    shards: ShardSet
    negatives: ShardSet | None
    """Of NASA-T: what the student learns to keep away from."""
    reference: str
    """File of the backbone's reference in the storage."""
    root: str
    """URI of the storage."""
    folder: str
    """Folder of this trial's sheets and student in the storage."""
    checkpoints: str
    """URI below which Ray Train keeps the trial's checkpoints."""
    evaluate: Evaluate
    resources: Resources

    @property
    def uploads(self) -> bool:
        """Whether MLflow's artifact store cannot be written by Ray, so that checkpoints are sent."""
        return self.checkpoints == f"{self.root}/{self.folder}"

    @property
    def student(self) -> str:
        """Folder of the finished student in the storage."""
        return f"{self.folder}/student"

    @property
    def look_steps(self) -> frozenset[int]:
        """The steps after which the student is looked at, evenly spaced, the last at the end."""
        steps, times = self.trial.train.steps, self.evaluate.times
        return frozenset(round(steps * (index + 1) / times) for index in range(times))
