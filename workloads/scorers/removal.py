"""Removal of negative prompts in the miniature world, judged by the miniature judge.

Shapes: B batch, N images, P = 16 image height and width in pixels.
"""

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np
from torch import Tensor

from workloads.miniature.world import named_attributes
from workloads.scorers.aggregation import as_values, share_score
from workloads.scorers.judge_scorer import JudgeScorer
from workloads.scorers.score import Score, share
from workloads.scorers.scorer import Measurements, Request

NEGATIVE_PROTOCOL = "pictures in which the miniature judge reads every value that the negative prompt names"
PROMPT_PROTOCOL = "attributes named by the prompts, read by the miniature judge"


class JudgeRemoval(JudgeScorer):
    """Share of images that show their negative prompt, and accuracy on their prompts."""

    name: ClassVar[str] = "removal"

    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `negative_shown`, `asked`, `asked_hits` and `asked_count`, each (B,).

        `negative_shown` is 1 if the image shows every attribute value that the negative prompt names,
        else 0. `asked` is the share of the attribute values named by the prompt that the image shows,
        `asked_hits` and `asked_count` are its numerator and denominator. The first two are NaN if the
        text names no attribute of this world.
        """
        pairs = list(zip(self.read_attributes(images), requests, strict=True))
        shown = [_hits(found, request.negative_prompt) for found, request in pairs]
        asked = [_hits(found, request.prompt) for found, request in pairs]
        return {
            "negative_shown": as_values(float(all(hits)) if hits else nan for hits in shown),
            "asked": as_values(sum(hits) / len(hits) if hits else nan for hits in asked),
            "asked_hits": as_values(sum(hits) for hits in asked),
            "asked_count": as_values(len(hits) for hits in asked),
        }

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return `negative_rate` over images and `prompt_accuracy` over attributes, where they apply."""
        scores = share_score("negative_rate", measured["negative_shown"], NEGATIVE_PROTOCOL)
        hits, count = (int(np.sum(measured[name])) for name in ("asked_hits", "asked_count"))
        return scores + ([share("prompt_accuracy", hits, count, PROMPT_PROTOCOL)] if count else [])


def _hits(found: dict[str, str], text: str) -> list[bool]:
    """Return one flag for each attribute that `text` names: true if the image shows its value."""
    return [found[name] == value for name, value in named_attributes(text).items()]
