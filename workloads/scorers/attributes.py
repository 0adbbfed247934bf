"""Attribute accuracy in the miniature world: the share of prompted attributes that the images show.

Shapes: B batch, N images, P = 16 image height and width in pixels.
"""

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np
from torch import Tensor

from workloads.miniature.world import ATTRIBUTES, captions, named_attributes
from workloads.scorers.aggregation import as_values, share_score
from workloads.scorers.judge_scorer import JudgeScorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measurements, Request

PROMPT_SEED = 20_241_203
PROTOCOL = "named attributes read by the miniature judge"


class AttributeAccuracy(JudgeScorer):
    """Share of the attributes named by the prompts that the judge finds in the images."""

    name: ClassVar[str] = "attributes"
    metric: ClassVar[str] = "attribute_accuracy"

    @staticmethod
    def prompts(count: int) -> list[str]:
        """Return the evaluation prompts; their seed differs from that of training prompts."""
        return captions(count, PROMPT_SEED)

    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `hit_<attribute>` (B,): 1 or 0 for a correct or wrong one, NaN if the prompt names none."""
        found = self.read_attributes(images)
        named = [named_attributes(request.prompt) for request in requests]
        pairs = list(zip(found, named, strict=True))
        return {
            f"hit_{name}": as_values(float(f[name] == n[name]) if name in n else nan for f, n in pairs)
            for name in ATTRIBUTES
        }

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return the accuracy over all attributes, then that of each attribute that a prompt names.

        Raises:
            ValueError: no prompt names an attribute.
        """
        hits = np.concatenate([measured[f"hit_{name}"] for name in ATTRIBUTES])
        scores = share_score(self.metric, hits, PROTOCOL)
        if not scores:
            raise ValueError(f"{self.metric}: nothing to score: no prompt names an attribute of the world")
        for name in ATTRIBUTES:
            scores += share_score(f"accuracy_{name}", measured[f"hit_{name}"], PROTOCOL)
        return scores

    def score(self, images: Tensor, prompts: Sequence[str]) -> list[Score]:
        """Load, measure and summarise images (N, 3, P, P) in [-1, 1] of N prompts in one call."""
        if self._judge is None:
            self.load()
        requests = [Request(prompt) for prompt in prompts]
        return self.summarise(self.measure(images, requests), requests)
