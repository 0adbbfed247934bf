"""Frechet distance, precision and recall of generated images in the miniature world.

Shapes: B batch, N images, P = 16 image height and width in pixels, F = 64 features.
"""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from workloads.miniature.world import dataset
from workloads.scorers.distribution import Features, Moments, frechet_score, precision_recall_scores
from workloads.scorers.judge_scorer import JudgeScorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measurements, Request

REFERENCE_SEED = 20_250_611
REFERENCE_COUNT = 1024
NEIGHBOURS = 3
"""k of precision and recall, as in Kynkaanniemi et al. 2019."""


class JudgeFidelity(JudgeScorer):
    """Frechet distance, precision and recall on the judge's features, against rendered images."""

    name: ClassVar[str] = "fidelity"

    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `judge_features` (B, F)."""
        return {"judge_features": self.features(images).numpy()}

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return `frechet_distance`, `precision` and `recall` against a fixed set of rendered images.

        There is no score if a feature is not finite, as for the images of a diverged student.

        Raises:
            ValueError: there are fewer than 8 images.
        """
        generated, real = measured["judge_features"].astype(np.float64), reference()
        if not np.isfinite(generated).all():
            return []
        setting = f"on the miniature judge's {generated.shape[1]} features, {len(generated)} drawn against "
        setting += f"{len(real)} rendered pictures"
        neighbours = f"k = {NEIGHBOURS} nearest neighbours {setting}"
        moments = Moments.from_features(real)
        distance = frechet_score("frechet_distance", moments, generated, f"Gaussians {setting}")
        return [distance, *precision_recall_scores(real, generated, neighbours, k=NEIGHBOURS)]


@cache
def reference() -> Features:
    """Return the features (N, F) of rendered images that no teacher was trained on.

    They are computed at the first call, because the judge is small, and kept for the process.
    """
    images, _, _ = dataset(REFERENCE_COUNT, REFERENCE_SEED)
    scorer = JudgeFidelity()
    scorer.load()
    return scorer.features(torch.from_numpy(images)).numpy().astype(np.float64)
