"""The score by which trials are ranked (`Sweep.ranked_by`), and short texts for a score and for an arm."""

from collections.abc import Container, Mapping, Sequence
from typing import Any, get_args

from orchestrator.config.evaluation_schema import RankingMetric
from workloads.scorers.score import Score

RANKING_METRICS: tuple[str, ...] = get_args(RankingMetric)
NAMES = {"attribute_accuracy": "accuracy", "hps_v2.1": "HPSv2.1", "hps_v2.0": "HPSv2.0", "clip_plus": "CLIP+"}
"""Short names of the ranking metrics for tables and progress lines."""
STRENGTH_METRICS = ("hps_v2.1", "hps_v2.0", "clip_plus")
"""Metrics by which students at their best strengths are compared: the first that was measured."""


def find_score(scores: Sequence[Score], metric: str | None) -> Score | None:
    """Return the score of `metric`; None if it was not measured."""
    return next((score for score in scores if score.metric == metric), None)


def first_measured(ranking: Sequence[str], measured: Container[str]) -> str | None:
    """Return the first metric in `ranking` that was measured; None if none was."""
    return next((metric for metric in ranking if metric in measured), None)


def is_share(metric: str) -> bool:
    """Return True if the metric is a share, which is shown in per cent."""
    return metric == "attribute_accuracy"


def format_score(metric: str, value: float) -> str:
    """Return a score as text: a share in per cent, anything else with four decimals."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4f}"


def arm_name(arm: Mapping[str, Any]) -> str:
    """Return kernel and strength of an arm, a row of `strength_curve.Arm.as_row`."""
    return "plain" if arm["kind"] == "none" else f"{arm['label']} {arm['strength']:g}"


def describe_arm(arm: Mapping[str, Any]) -> str:
    """Return an arm's name with its removal rate, or with its ranking score if removal was not measured."""
    found = {score["metric"]: score["value"] for score in arm["scores"]}
    metric = first_measured(STRENGTH_METRICS, found)
    if "removal_rate" in found:
        return f"{arm_name(arm)}: {100 * found['removal_rate']:.0f} % removed"
    return (
        f"{arm_name(arm)}: {NAMES[metric]} {format_score(metric, found[metric])}" if metric else arm_name(arm)
    )
