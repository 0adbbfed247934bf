"""The interface of every scorer: images and their requests in, scores out.

It has two halves, so that a scorer can run as a stage of a data pipeline: `measure` needs the weights
and takes one batch; `summarise` needs no weights and takes the measurements of all images.

Shapes: B batch, N images, P image height and width in pixels, F features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workloads.scorers.score import Score

Measurements = Mapping[str, npt.NDArray[np.float32]]
"""Values per image by name, (B,) numbers or (B, F) features; NaN where a value does not apply."""


@dataclass(frozen=True)
class Request:
    """The prompts from which an image was generated."""

    prompt: str
    negative_prompt: str = ""
    style: str = ""
    """Group of the prompt, for scores per group; empty for none."""


class Scorer(ABC):
    """One way of scoring images; an instance is cheap until `load` reads its weights."""

    name: ClassVar[str]
    """Name in the sweep file."""

    @abstractmethod
    def load(self, device: str = "cpu") -> None:
        """Load the weights on `device`; called once per process, before `measure`.

        Raises:
            ValueError: the weights are neither in the given file nor in the hub's cache.
        """

    @abstractmethod
    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Measure images (B, 3, P, P) in [-1, 1] against their B requests.

        Raises:
            ValueError: the scorer does not accept images of this shape.
        """

    @abstractmethod
    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return the scores of N images from their concatenated measurements and their N requests."""
