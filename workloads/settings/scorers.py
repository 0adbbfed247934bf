"""Which scorers there are and what each can be told; costs nothing to import."""

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
MINIATURE = ("attributes", "fidelity", "removal")
"""Scorers that read pictures of the miniature world only."""


@dataclass(frozen=True)
class ScorerSettings:
    """One scorer and its options; those that a scorer does not know are errors."""

    __pydantic_config__ = STRICT

    name: Literal["attributes", "fidelity", "removal", "clip", "hpsv2", "fid"]
    weights: str | None = None
    """clip: folder or hub id; hpsv2, fid: a file; none: what the hub's cache holds."""
    version: Literal["v2.0", "v2.1"] | None = None
    """hpsv2: which of its two weights; their scores cannot be compared."""
    reference: str | None = None
    """fid: an .npz of what the network sees in real pictures; `workloads.scorers.inception`
    makes one of a folder."""
    threshold: float | None = None
    """clip: probability from which a picture counts as showing the negative prompt."""

    def __post_init__(self) -> None:
        for option in ("weights", "version", "reference", "threshold"):
            if getattr(self, option) is not None and option not in OPTIONS[self.name]:
                raise ValueError(f"scorer {self.name} has no option {option}")
        if self.name == "hpsv2" and self.version is None:
            raise ValueError("scorer hpsv2 needs its version: v2.0 or v2.1")
        if self.name == "fid" and (self.reference is None or self.weights is None):
            raise ValueError("scorer fid needs weights and a reference")
