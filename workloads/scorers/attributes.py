"""Attribute accuracy in the miniature world: does the picture show what the prompt names?

Shapes: B batch, N pictures, P = 16 pixels a side.
"""

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np
from torch import Tensor

from workloads.miniature.world import ATTRIBUTES, captions, named_attributes
from workloads.scorers.columns import column, share_of
from workloads.scorers.judged import JudgedScorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measured, Request

PROMPT_SEED = 20_241_203
PROTOCOL = "named attributes read by the miniature judge"


class AttributeAccuracy(JudgedScorer):
    """The share of attributes named by the prompts that the judge finds in the pictures."""

    name: ClassVar[str] = "attributes"
    metric: ClassVar[str] = "attribute_accuracy"

    @staticmethod
    def prompts(count: int) -> list[str]:
        """The prompts that the score is measured on: never those of training."""
        return captions(count, PROMPT_SEED)

    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """`hit_<attribute>` (B,): 1 where it is as asked, NaN where the prompt does not name it."""
        seen, asked = self.read(pictures), [named_attributes(request.prompt) for request in requests]
        pairs = list(zip(seen, asked, strict=True))
        return {
            f"hit_{name}": column(float(s[name] == a[name]) if name in a else nan for s, a in pairs)
            for name in ATTRIBUTES
        }

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """The accuracy over all attributes, then of each that was asked for.

        Raises:
            ValueError: no prompt names an attribute.
        """
        everything = share_of(
            self.metric, np.concatenate([measured[f"hit_{name}"] for name in ATTRIBUTES]), PROTOCOL
        )
        if not everything:
            raise ValueError(f"{self.metric}: nothing to score: no prompt names an attribute of the world")
        for name in ATTRIBUTES:
            everything += share_of(f"accuracy_{name}", measured[f"hit_{name}"], PROTOCOL)
        return everything

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> list[Score]:
        """Loads, measures and summarises (N, 3, P, P) in [-1, 1] in one go."""
        if self._judge is None:
            self.load()
        requests = [Request(prompt) for prompt in prompts]
        return self.summarise(self.measure(pictures, requests), requests)
