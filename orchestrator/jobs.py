"""What a trial's workers are told: plain data that travels from the driver to every process."""

from dataclasses import dataclass
from typing import Any

from orchestrator.config.evaluation_schema import Evaluate
from orchestrator.config.schema import Resources
from orchestrator.data.shard_order import ShardSet
from orchestrator.planning.plan import Trial

Metrics = dict[str, Any]

INTERRUPTED, PRUNED = "the sweep is interrupted", "stopped by the scheduler"
"""Why the driver has a training end before its time."""


@dataclass(frozen=True)
class TrainingJob:
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
    """URI of the folder or bucket in which the trial's checkpoints are kept."""
    evaluate: Evaluate
    resources: Resources
    node_labels: dict[str, str]
    """Ray labels of the nodes that its workers may run on; see `capacity`."""
    ranked_by: str | None
    """Metric of its scores."""

    @property
    def notice(self) -> str:
        """File in the storage by which the driver tells the workers to end: its text is the reason."""
        return f"{self.folder}/notice"

    @property
    def hangs(self) -> str:
        """Folder in the storage where workers that hang leave a note."""
        return f"{self.folder}/hangs"

    @property
    def notes(self) -> str:
        """Folder in the storage where workers say who they are; see `worker_logs`."""
        return f"{self.folder}/workers"

    @property
    def who(self) -> str:
        """Sweep and trial, as logs name them."""
        return f"{self.folder.partition('/')[0]}/{self.trial.name}"

    @property
    def uploads(self) -> bool:
        """Whether MLflow's artifact store cannot be written by Ray, so that checkpoints are sent."""
        return self.checkpoints == f"{self.root}/{self.folder}"

    @property
    def student(self) -> str:
        """Folder of the finished student in the storage."""
        return f"{self.folder}/student"

    @property
    def eval_steps(self) -> frozenset[int]:
        """The steps after which the student is looked at, evenly spaced, the last at the end."""
        steps, count = self.trial.train.steps, self.evaluate.evaluations
        return frozenset(round(steps * (index + 1) / count) for index in range(count))
