"""A metric's value with its sample count, its 95 % confidence interval and how it was measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Score:
    """One measured metric; `low` and `high` bound its 95 % confidence interval."""

    metric: str
    value: float
    samples: int
    low: float
    high: float
    protocol: str
    """Description of the measurement, for readers of results."""


def scores_from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Score, ...]:
    """Read scores that were stored as JSON objects of their fields."""
    return tuple(Score(**score) for score in stored)


def find_score(scores: Sequence[Score], metric: str | None) -> Score | None:
    """Return the score `metric`; None if it was not measured."""
    return next((score for score in scores if score.metric == metric), None)


def share(metric: str, hits: int, samples: int, protocol: str) -> Score:
    """Return the proportion of successes with its 95 % Wilson score interval (Wilson 1927).

    Raises:
        ValueError: there are no samples.
    """
    if samples == 0:
        raise ValueError(f"{metric}: nothing to score")
    p, z2 = hits / samples, Z95**2
    middle = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 / (1 + z2 / samples) * math.sqrt(p * (1 - p) / samples + z2 / (4 * samples**2))
    return Score(metric, p, samples, max(0.0, middle - half), min(1.0, middle + half), protocol)


def mean(metric: str, values: Sequence[float], protocol: str) -> Score:
    """Return the mean with the 95 % interval of the normal approximation, of width 0 for one value.

    Raises:
        ValueError: there are no samples.
    """
    count = len(values)
    if count == 0:
        raise ValueError(f"{metric}: nothing to score")
    value = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((v - value) ** 2 for v in values) / (count - 1)) if count > 1 else 0.0
    half = Z95 * deviation / math.sqrt(count)
    return Score(metric, value, count, value - half, value + half, protocol)
