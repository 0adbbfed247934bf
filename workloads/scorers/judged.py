"""What the scorers of the miniature world have in common: its judge, and pictures of its size.

Shapes: B batch, P = 16 pixels a side, F = 64 features.
"""

from abc import ABC

import torch
from torch import Tensor

from workloads.miniature.judge import Judge, load_judge
from workloads.miniature.world import PIXELS
from workloads.scorers.scorer import Scorer


class JudgedScorer(Scorer, ABC):
    """A scorer that looks at pictures through the miniature judge."""

    def __init__(self) -> None:
        self._judge: Judge | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        self._judge, self._device = load_judge().to(device), device

    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """What each of the (B, 3, P, P) pictures shows: attribute -> value."""
        return self._ready(pictures).read(pictures.float().to(self._device))

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, P, P) -> (B, F) on the CPU."""
        return self._ready(pictures).features(pictures.float().to(self._device)).cpu()

    def _ready(self, pictures: Tensor) -> Judge:
        if self._judge is None:
            raise RuntimeError(f"scorer {self.name!r}: call load before measure")
        if pictures.shape[1:] != (3, PIXELS, PIXELS):
            raise ValueError(
                f"scorer {self.name!r} reads {PIXELS} x {PIXELS} pictures of the miniature world, not "
                f"{tuple(pictures.shape[1:])}; leave it out of evaluate.scorers for this backbone"
            )
        return self._judge
