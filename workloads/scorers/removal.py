"""Is what the negative prompt names gone from the picture? Counted by the miniature judge.

Shapes: B batch, N pictures, P = 16 pixels a side.
"""

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np
from torch import Tensor

from workloads.miniature.world import named_attributes
from workloads.scorers.columns import column, share_of
from workloads.scorers.judged import JudgedScorer
from workloads.scorers.score import Score, share
from workloads.scorers.scorer import Measured, Request

SHOWN = "pictures in which the miniature judge reads every value that the negative prompt names"
ASKED = "attributes named by the prompts, read by the miniature judge"


class JudgedRemoval(JudgedScorer):
    """The share of pictures that show the negative, and how much of the prompt they still show."""

    name: ClassVar[str] = "removal"

    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """`negative_shown`, `asked`, `asked_hits` and `asked_count`, each (B,).

        `negative_shown` is 1 or 0, and NaN where the negative prompt names nothing of this
        world; `asked` is the share of what the prompt names that is there, NaN likewise.
        """
        pairs = list(zip(self.read(pictures), requests, strict=True))
        shown = [_hits(seen, request.negative_prompt) for seen, request in pairs]
        asked = [_hits(seen, request.prompt) for seen, request in pairs]
        return {
            "negative_shown": column(float(all(hits)) if hits else nan for hits in shown),
            "asked": column(sum(hits) / len(hits) if hits else nan for hits in asked),
            "asked_hits": column(sum(hits) for hits in asked),
            "asked_count": column(len(hits) for hits in asked),
        }

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """`negative_rate` over pictures and `prompt_accuracy` over attributes, where they apply."""
        scores = share_of("negative_rate", measured["negative_shown"], SHOWN)
        hits, count = (int(np.sum(measured[name])) for name in ("asked_hits", "asked_count"))
        return scores + ([share("prompt_accuracy", hits, count, ASKED)] if count else [])


def _hits(seen: dict[str, str], text: str) -> list[bool]:
    """Of each attribute that `text` names, whether it is as named."""
    return [seen[name] == value for name, value in named_attributes(text).items()]
