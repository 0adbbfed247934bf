"""Scores from measurements per image, in which NaN marks a value that does not apply.

Shapes: N images.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from workloads.scorers.score import Score, mean, share

Values = npt.NDArray[np.float32]


def as_values(numbers: Iterable[float]) -> Values:
    """Return N numbers as a float32 array (N,)."""
    return np.asarray(list(numbers), dtype=np.float32)


def share_score(metric: str, values: Values, protocol: str) -> list[Score]:
    """Return the proportion of ones in (N,) zeros and ones; no score if no value applies."""
    numbers = _without_nan(values)
    return [share(metric, round(sum(numbers)), len(numbers), protocol)] if numbers else []


def mean_score(metric: str, values: Values, protocol: str) -> list[Score]:
    """Return the mean of (N,) values; no score if no value applies."""
    numbers = _without_nan(values)
    return [mean(metric, numbers, protocol)] if numbers else []


def _without_nan(values: Values) -> list[float]:
    return [float(value) for value in values[~np.isnan(values)]]
