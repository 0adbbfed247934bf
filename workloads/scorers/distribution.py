"""How far drawn pictures are from real ones as distributions, in a space of features.

Shapes: N pictures, M points, F features; all numbers are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from workloads.scorers.score import Z95, Score, share

Features = npt.NDArray[np.float64]

CHUNK = 1024
"""Rows of a matrix of distances that are in memory at once."""


@dataclass(frozen=True)
class Moments:
    """All of a set of pictures that the Frechet distance sees."""

    mean: Features
    """(F,)"""
    covariance: Features
    """(F, F)"""

    @classmethod
    def of(cls, features: Features) -> "Moments":
        """Of (N, F), with the unbiased covariance.

        Raises:
            ValueError: there are fewer than two pictures.
        """
        if len(features) < 2:
            raise ValueError(f"Frechet distance: needs 2 pictures or more, got {len(features)}")
        return cls(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))

    @cached_property
    def root(self) -> Features:
        """The symmetric square root of the covariance, (F, F)."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: Features = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        return root


def frechet(real: Moments, drawn: Moments) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2), the squared distance of Heusel et al. 2017.

    The trace of (C C')^1/2 is that of (C^1/2 C' C^1/2)^1/2. This is symmetric, so its eigenvalues
    are real, also where fewer pictures than features leave the covariances singular.
    """
    values = np.linalg.eigvalsh(real.root @ drawn.covariance @ real.root)
    traces = np.trace(real.covariance) + np.trace(drawn.covariance)
    distance = np.square(real.mean - drawn.mean).sum() + traces - 2 * np.sqrt(values.clip(0)).sum()
    return max(0.0, float(distance))


def frechet_distance(a: Features, b: Features) -> float:
    """Between the Gaussians fitted to (N, F) and (M, F); symmetric, 0 for equal sets."""
    return frechet(Moments.of(a), Moments.of(b))


def precision_recall(real: Features, drawn: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of Kynkaanniemi et al. 2019.

    Precision is the share of drawn pictures inside the real manifold, recall the share of real
    ones inside the drawn manifold. A manifold is the union of balls around its pictures, each
    reaching to the k-th nearest other picture of the same set.

    Raises:
        ValueError: a set has not more than k pictures.
    """
    return float(inside(drawn, real, k).mean()), float(inside(real, drawn, k).mean())


def inside(points: Features, centres: Features, k: int) -> npt.NDArray[np.bool_]:
    """Which of (M, F) points lie in the manifold of the (N, F) centres; (M,)."""
    reach = _radii(centres, k)
    chunks = (points[row : row + CHUNK] for row in range(0, len(points), CHUNK))
    return np.concatenate([(_distances(chunk, centres) <= reach).any(axis=1) for chunk in chunks])


def _radii(centres: Features, k: int) -> Features:
    """(N,) squared distances to the k-th nearest other point."""
    if len(centres) <= k:
        raise ValueError(f"precision and recall: need more than k = {k} pictures, got {len(centres)}")
    chunks = (centres[row : row + CHUNK] for row in range(0, len(centres), CHUNK))
    # The nearest of all is the point itself, at index 0.
    return np.concatenate([np.partition(_distances(chunk, centres), k)[:, k] for chunk in chunks])


def _distances(a: Features, b: Features) -> Features:
    """(N, M) squared Euclidean distances."""
    products = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    distances: Features = products.clip(0)
    return distances


def half_sampled(
    metric: str,
    statistic: Callable[[Features], float],
    drawn: Features,
    protocol: str,
    *,
    halves: int = 100,
    high: float = float("inf"),
) -> Score:
    """`statistic` of all drawn pictures; its interval from its spread over random halves of them.

    Halves are taken without replacement: over them a statistic spreads as it would over fresh
    sets of N pictures (the delete-half jackknife, Shao and Wu 1989). A bootstrap would draw a
    picture twice, which shrinks the balls of the recall and biases the Frechet distance; the
    bias of a half is left out too, as the interval is centred on the value of all N pictures.
    The real pictures are taken as given. For distances and recall it comes out a little wide.

    Args:
        high: largest value that the metric can have; the smallest is 0.
    """
    rng, value = np.random.default_rng(0), statistic(drawn)
    picks = (rng.permutation(len(drawn))[: len(drawn) // 2] for _ in range(halves))
    half_width = Z95 * float(np.std([statistic(drawn[pick]) for pick in picks], ddof=1))
    low_end, high_end = max(0.0, value - half_width), min(high, value + half_width)
    return Score(metric, value, len(drawn), low_end, high_end, protocol)


def frechet_score(metric: str, real: Moments, drawn: Features, protocol: str, *, halves: int = 100) -> Score:
    """The Frechet distance of (N, F) drawn features, with its interval.

    Raises:
        ValueError: there are fewer than four drawn pictures.
    """
    if len(drawn) < 4:
        raise ValueError(f"{metric}: needs 4 drawn pictures or more, got {len(drawn)}")
    return half_sampled(metric, lambda d: frechet(real, Moments.of(d)), drawn, protocol, halves=halves)


def precision_recall_scores(
    real: Features, drawn: Features, protocol: str, *, k: int = 3, halves: int = 100
) -> list[Score]:
    """Precision with Wilson's interval, as a share of drawn pictures, and recall with its own.

    Raises:
        ValueError: half of the drawn pictures are not more than k.
    """
    if len(drawn) // 2 <= k:
        raise ValueError(f"recall: needs {2 * k + 2} drawn pictures or more, got {len(drawn)}")
    hits = int(inside(drawn, real, k).sum())
    recall = half_sampled(
        "recall", lambda d: float(inside(real, d, k).mean()), drawn, protocol, halves=halves, high=1.0
    )
    return [share("precision", hits, len(drawn), protocol), recall]
