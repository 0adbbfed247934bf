"""The shared part of the scorers of the miniature world: its judge, and a check of the image size.

Shapes: B batch, P image height and width in pixels (16, or 32 that the judge averages down), F = 64 features.
"""

from abc import ABC

import torch
from torch import Tensor

from workloads.miniature.judge import Judge, load_judge
from workloads.miniature.world import PIXELS
from workloads.scorers.scorer import Scorer


class JudgeScorer(Scorer, ABC):
    """A scorer that measures images with the miniature judge, an attribute classifier."""

    def __init__(self) -> None:
        self._judge: Judge | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        self._judge, self._device = load_judge().to(device), device

    def read_attributes(self, images: Tensor) -> list[dict[str, str]]:
        """Classify images (B, 3, P, P) in [-1, 1]; one dict per image, from attribute to value."""
        return self._judge_for(images).read(images.float().to(self._device))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the judge's features (B, F), on the CPU, of images (B, 3, P, P) in [-1, 1]."""
        return self._judge_for(images).features(images.float().to(self._device)).cpu()

    def _judge_for(self, images: Tensor) -> Judge:
        if self._judge is None:
            raise RuntimeError(f"scorer {self.name!r}: call load before measure")
        if tuple(images.shape[1:]) not in [(3, side, side) for side in (PIXELS, 2 * PIXELS)]:
            raise ValueError(
                f"scorer {self.name!r} needs {PIXELS} x {PIXELS} images of the miniature world, or twice the "
                f"size, not {tuple(images.shape[1:])}; remove it from evaluate.scorers for this backbone"
            )
        return self._judge
