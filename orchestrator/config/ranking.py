"""The one score that trials are ranked by (`Sweep.ranked_by`), and how it and an arm are said in words."""

from collections.abc import Container, Mapping, Sequence
from typing import Any, get_args

from orchestrator.config.evaluation_schema import Headline
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


def arm_name(arm: Mapping[str, Any]) -> str:
    """Kernel and strength of an arm, as `curve.Arm.as_row` gives it."""
    return "plain" if arm["kind"] == "none" else f"{arm['label']} {arm['strength']:g}"


def arm_in_words(arm: Mapping[str, Any]) -> str:
    """Its name, and the share of what negatives name that is gone there, else how good its pictures are."""
    found = {score["metric"]: score["value"] for score in arm["scores"]}
    metric = first_of(AT_STRENGTH, found)
    if "removal_rate" in found:
        return f"{arm_name(arm)}: {100 * found['removal_rate']:.0f} % gone"
    return f"{arm_name(arm)}: {NAMES[metric]} {in_words(metric, found[metric])}" if metric else arm_name(arm)
