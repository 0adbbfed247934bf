"""Metrics that rank trials (`Sweep.ranked_by`) and students at their best strengths; higher is better."""

from collections.abc import Container, Sequence
from typing import get_args

from orchestrator.config.evaluation_schema import RankingMetric

RANKING_METRICS: tuple[str, ...] = get_args(RankingMetric)
"""Metrics that trials can be ranked by, the default first."""
STRENGTH_METRICS = ("hps_v2.1", "hps_v2.0", "clip_plus")
"""Metrics that students at their best strengths are compared by, the first that was measured."""


def first_measured(ranking: Sequence[str], measured: Container[str]) -> str | None:
    """Return the first metric in `ranking` that was measured; None if none was."""
    return next((metric for metric in ranking if metric in measured), None)
