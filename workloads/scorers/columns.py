"""What was measured of each picture, made into scores: columns of numbers with gaps.

Shapes: N pictures.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from workloads.scorers.score import Score, mean, share

Column = npt.NDArray[np.float32]


def column(values: Iterable[float]) -> Column:
    """(N,) numbers; NaN where a value does not apply."""
    return np.asarray(list(values), dtype=np.float32)


def known(values: Column) -> list[float]:
    """The numbers that apply."""
    return [float(value) for value in values[~np.isnan(values)]]


def share_of(metric: str, values: Column, protocol: str) -> list[Score]:
    """Of (N,) zeros and ones, the share of ones; no score where none applies."""
    numbers = known(values)
    return [share(metric, round(sum(numbers)), len(numbers), protocol)] if numbers else []


def mean_of(metric: str, values: Column, protocol: str) -> list[Score]:
    """The mean of (N,) numbers; no score where none applies."""
    numbers = known(values)
    return [mean(metric, numbers, protocol)] if numbers else []
