"""How near drawn pictures are to the miniature world's own, as distributions.

Shapes: B batch, N pictures, P = 16 pixels a side, F = 64 features.
"""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from workloads.miniature.world import dataset
from workloads.scorers.distribution import Features, Moments, frechet_score, precision_recall_scores
from workloads.scorers.judged import JudgedScorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measured, Request

REFERENCE_SEED = 20_250_611
REFERENCE_COUNT = 1024
NEIGHBOURS = 3


class JudgeFidelity(JudgedScorer):
    """Frechet distance, precision and recall on the judge's features."""

    name: ClassVar[str] = "fidelity"

    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """`judge_features` (B, F)."""
        return {"judge_features": self.features(pictures).numpy()}

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """Against a fixed set of rendered pictures, whose features the tiny judge gives at once.

        Of pictures that are not numbers, as a diverged student draws them, there is no score.

        Raises:
            ValueError: there are fewer than 8 pictures.
        """
        drawn, real = measured["judge_features"].astype(np.float64), reference()
        if not np.isfinite(drawn).all():
            return []
        about = f"on the miniature judge's {drawn.shape[1]} features, {len(drawn)} drawn against "
        about += f"{len(real)} rendered pictures"
        balls = f"k = {NEIGHBOURS} nearest neighbours {about}"
        distance = frechet_score("frechet_distance", Moments.of(real), drawn, f"Gaussians {about}")
        return [distance, *precision_recall_scores(real, drawn, balls, k=NEIGHBOURS)]


@cache
def reference() -> Features:
    """(N, F) features of rendered pictures that no teacher was trained on."""
    pictures, _, _ = dataset(REFERENCE_COUNT, REFERENCE_SEED)
    scorer = JudgeFidelity()
    scorer.load()
    return scorer.features(torch.from_numpy(pictures)).numpy().astype(np.float64)
