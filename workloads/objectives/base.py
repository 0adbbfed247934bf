"""The seam: what every objective is, so that nothing that runs one need know which it is.

    draws = objective.draw(batch, generator)                 every random number of a global batch
    for update in objective.updates(networks, batch, draws[rows], step):
        engines[update.network].step(update.loss)            back-propagate, step that network

Shapes: B batch, C latent channels, H latent size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn

from workloads.backbones.backbone import Backbone, Network
from workloads.layers.transformer_blocks import recompute
from workloads.objectives.batch import Batch

STUDENT = "student"
"""The network that every objective trains."""
SPREAD = "latent_spread"
"""How much the student's pictures vary over a batch, which every objective tells: see `collapse_ratio`."""


@dataclass(frozen=True)
class Update:
    """One update of one network."""

    network: str
    """`STUDENT`, or one of the objective's auxiliary networks."""
    loss: Tensor
    """Scalar, to back-propagate; told as `<network>_loss`."""
    told: Mapping[str, Tensor] = field(default_factory=dict)
    """Whatever else there is to tell, each a scalar without gradient."""
    latents: Tensor | None = None
    """(B, C, H, H), the student's pictures, with gradient; of the student's update alone."""


@dataclass(frozen=True)
class Auxiliary:
    """A network that is trained beside the student, and kept in checkpoints."""

    module: nn.Module
    learning_rate: float


class Drawn(Protocol):
    """The random numbers of one step, of a whole global batch or of a worker's rows of it.

    A frozen dataclass of tensors, or of tuples of such, each with B rows or of no dimension.
    """

    def __getitem__(self, rows: slice) -> Self: ...


Draws = TypeVar("Draws", bound=Drawn)


class Objective(ABC, Generic[Draws]):
    """What a step minimises; knows no optimiser, no process group and no file of a training."""

    losses: tuple[str, ...]
    """What a step tells, in this order; `student_loss` and `SPREAD` are among them."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.auxiliary: Mapping[str, Auxiliary] = {}
        self.columns: Mapping[str, int] = {}
        """Names and widths of the columns that it needs in a batch."""

    @abstractmethod
    def draw(self, batch: int, generator: Any) -> Draws:
        """Every random number of a step for a global batch of `batch` samples.

        `generator` is torch's; the numbers lie on its device.
        """

    @abstractmethod
    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: Draws, step: int
    ) -> Iterator[Update]:
        """The updates of step number `step` (from 1), one after the other.

        Each is made before the next is asked for. `networks`: the student and the auxiliary
        networks by name, or engines around them. The last loss of a network is the one that is told.
        """

    def recompute(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`blocks.recompute` for a module of the teacher's network."""
        return recompute(module, *args, **kwargs)
