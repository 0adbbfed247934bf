"""What every scorer is: pictures, and what was asked of them, in; numbers out.

In two halves, so that a scorer can be run as a stage of a data pipeline: `measure` needs the
weights and sees one batch, `summarise` sees what was measured of all pictures and needs none.

Shapes: B batch, N pictures, P pixels a side, F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workloads.scorers.score import Score

Measured = Mapping[str, npt.NDArray[np.float32]]
"""Of each picture: name -> (B,) numbers or (B, F) features; NaN where it does not apply."""


@dataclass(frozen=True)
class Request:
    """What a picture was asked to be."""

    prompt: str
    negative_prompt: str = ""
    style: str = ""
    """Group that the prompt belongs to, for scores by group; none: ''."""


class Scorer(ABC):
    """One way of scoring; making one costs nothing, as the weights come with `load`."""

    name: ClassVar[str]
    """As in the sweep file."""

    @abstractmethod
    def load(self, device: str = "cpu") -> None:
        """Takes the weights into memory; once in a process.

        Raises:
            ValueError: they are neither in the given file nor in the hub's cache.
        """

    @abstractmethod
    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """Of (B, 3, P, P) in [-1, 1] and their B requests; needs `load` before.

        Raises:
            ValueError: the pictures are not what this scorer can read.
        """

    @abstractmethod
    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """What was measured of N pictures, in their order, as scores with their intervals."""
