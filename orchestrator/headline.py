"""The one score that trials are ranked by: which of those that were measured, and how it is said."""

from collections.abc import Collection, Sequence
from typing import get_args

from orchestrator.sweep_measured import Headline
from workloads.scorers.score import Score

HEADLINES: tuple[str, ...] = get_args(Headline)
"""Trials, and the checkpoints of one, are ranked by the first of these that is measured."""
NAMES = {"attribute_accuracy": "accuracy", "hps_v2.1": "HPSv2.1", "hps_v2.0": "HPSv2.0", "clip_plus": "CLIP+"}


def headline(scores: Sequence[Score]) -> Score | None:
    """The score that trials are ranked by, if it was measured."""
    metric = ranking([score.metric for score in scores])
    return next((score for score in scores if score.metric == metric), None)


def ranking(metrics: Collection[str]) -> str | None:
    """The one of these that ranks."""
    return next((metric for metric in HEADLINES if metric in metrics), None)


def is_share(metric: str) -> bool:
    """Whether it is a share of something, which is said in per cent."""
    return metric == "attribute_accuracy"


def in_words(metric: str, value: float) -> str:
    """The value as people read it."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4f}"
