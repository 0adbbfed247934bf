"""The interface of every objective; the training loop uses nothing else of one.

    draws = objective.draw(global_batch_size, generator)     random numbers of the global batch
    for update in objective.updates(networks, batch, draws[rows], step):
        engines[update.network].step(update.loss)            back-propagate, update that network

A subclass implements `draw` and `updates` and sets `metric_names`; `auxiliary` and `columns` are
empty unless it sets them.

Shapes: B batch, C latent channels, H latent height and width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn

from workloads.backbones.backbone import Backbone
from workloads.backbones.network_calls import Network
from workloads.objectives.batch import Batch

STUDENT = "student"
"""Name of the network that every objective trains."""
SPREAD = "latent_spread"
"""Metric of every objective, added by `train_step`: standard deviation over the batch of the latents x_0 that
the student predicts from pure noise, averaged over their elements. `collapse_ratio` is compared with it."""


@dataclass(frozen=True)
class Update:
    """One optimiser update of one network."""

    network: str
    """`STUDENT`, or the name of an auxiliary network of the objective."""
    loss: Tensor
    """Scalar to back-propagate; recorded as the metric `<network>_loss`."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Further metrics by name, each a detached scalar."""
    latents: Tensor | None = None
    """The student's latents x_0 (B, C, H, H), with gradient; only in the student's update."""
    from_noise: Tensor | None = None
    """x_0 that a student of several steps predicts from pure noise, (B, C, H, H), if it is not `latents`."""


@dataclass(frozen=True)
class Auxiliary:
    """A network that is trained beside the student; it has its own engine and is checkpointed."""

    module: nn.Module
    learning_rate: float
    adam_betas: tuple[float, float] | None = None
    """beta_1 and beta_2 of its optimiser; None: those of the training."""
    network: nn.Module | None = None
    """Whole diffusers network in `module`, whose activations a step may recompute; None if it has none of its
    own, as adapters on the teacher's."""


class StepDraws(Protocol):
    """Random numbers of one step, for the global batch or for one worker's rows of it.

    A frozen dataclass of tensors, or of tuples of such dataclasses; each tensor has B rows or is a
    scalar, which all rows share.
    """

    def __getitem__(self, rows: slice) -> Self: ...


DrawsT = TypeVar("DrawsT", bound=StepDraws)


class Objective(ABC, Generic[DrawsT]):
    """The losses of a step; independent of optimisers, process groups and files."""

    metric_names: tuple[str, ...]
    """Metrics of a step, in the order in which they are recorded: `<network>_loss` of each network,
    `SPREAD` and the keys of `Update.metrics`. It contains at least `student_loss` and `SPREAD`."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.auxiliary: Mapping[str, Auxiliary] = {}
        """Networks that are trained beside the student, by name."""
        self.columns: Mapping[str, int] = {}
        """Names and widths of the columns that `updates` reads from `Batch.columns`, after `prepare`."""

    @abstractmethod
    def draw(self, batch: int, generator: Any) -> DrawsT:
        """Draw every random number of a step for a global batch of `batch` samples.

        A worker uses its rows of them, so the numbers do not depend on the number of workers.

        Args:
            generator: a `torch.Generator`; the numbers are drawn on its device.
        """

    def prepare(self, batch: Batch) -> Batch:
        """Return a worker's batch as `updates` reads it, given its rows of the shards; runs on the CPU.

        An objective overrides it if it makes a column of what is stored, such as noise of its seed.
        """
        return batch

    @abstractmethod
    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: DrawsT, step: int
    ) -> Iterator[Update]:
        """Yield the updates of step number `step` (from 1) in order.

        The caller back-propagates each update and steps its network before it asks for the next. A
        network may be updated several times; its last loss is the one that is recorded.

        Args:
            networks: the student and the auxiliary networks by name, or engines around them.
            batch: this worker's B samples.
            draws: this worker's B rows of what `draw` returned.
        """
