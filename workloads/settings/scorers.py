"""Settings of the scorers; imports no torch."""

from dataclasses import dataclass
from typing import Literal

from workloads.settings.validation import STRICT

OPTIONS: dict[str, tuple[str, ...]] = {
    "attributes": (),
    "fidelity": (),
    "removal": (),
    "clip": ("weights", "threshold"),
    "hpsv2": ("weights", "version"),
    "fid": ("weights", "reference"),
}
"""Options of each scorer."""
MINIATURE_SCORERS = ("attributes", "fidelity", "removal")
"""Scorers that only read images of the miniature world."""


@dataclass(frozen=True)
class ScorerSettings:
    """A scorer and its options; an option that the scorer does not have is an error."""

    __pydantic_config__ = STRICT

    name: Literal["attributes", "fidelity", "removal", "clip", "hpsv2", "fid"]
    """Name of the scorer."""
    weights: str | None = None
    """clip: folder or hub id; hpsv2, fid: file; None: the published weights in the hub's cache."""
    version: Literal["v2.0", "v2.1"] | None = None
    """hpsv2: version of its weights; scores of the two versions are not comparable."""
    reference: str | None = None
    """fid: .npz file with the network's features of real images, as made by
    `workloads.scorers.inception` from a folder of images."""
    threshold: float | None = None
    """clip: probability from which an image counts as showing the negative prompt."""

    def __post_init__(self) -> None:
        for option in ("weights", "version", "reference", "threshold"):
            if getattr(self, option) is not None and option not in OPTIONS[self.name]:
                raise ValueError(f"scorer {self.name} has no option {option}")
        if self.name == "hpsv2" and self.version is None:
            raise ValueError("scorer hpsv2 needs its version: v2.0 or v2.1")
        if self.name == "fid" and (self.reference is None or self.weights is None):
            raise ValueError("scorer fid needs weights and a reference")
