"""The one score that trials are ranked by (`Sweep.ranked_by`), and how it is said."""

from collections.abc import Container, Sequence
from typing import get_args

from orchestrator.sweep_measured import Headline
from workloads.scorers.score import Score

HEADLINES: tuple[str, ...] = get_args(Headline)
NAMES = {"attribute_accuracy": "accuracy", "hps_v2.1": "HPSv2.1", "hps_v2.0": "HPSv2.0", "clip_plus": "CLIP+"}
AT_STRENGTH = ("hps_v2.1", "hps_v2.0", "clip_plus")
"""What students at their best strengths are compared by, the first that was measured."""


def headline(scores: Sequence[Score], metric: str | None) -> Score | None:
    """The score of `metric`, if it was measured."""
    return next((score for score in scores if score.metric == metric), None)


def first_of(ranking: Sequence[str], measured: Container[str]) -> str | None:
    """The first in `ranking` that was measured."""
    return next((metric for metric in ranking if metric in measured), None)


def is_share(metric: str) -> bool:
    """Whether it is a share of something, which is said in per cent."""
    return metric == "attribute_accuracy"


def in_words(metric: str, value: float) -> str:
    """The value as people read it."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4f}"
