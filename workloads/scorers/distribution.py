"""Distances between the distributions of real and generated images in a feature space.

Shapes: N and M images, F features; all numbers are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from workloads.scorers.score import Z95, Score, share

Features = npt.NDArray[np.float64]

CHUNK = 1024
"""Rows of a distance matrix that are in memory at once."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of features, the statistics of the Frechet distance."""

    mean: Features
    """(F,)"""
    covariance: Features
    """(F, F)"""

    @classmethod
    def from_features(cls, features: Features) -> "Moments":
        """Compute the moments of features (N, F), with the unbiased covariance.

        Raises:
            ValueError: there are fewer than two images.
        """
        if len(features) < 2:
            raise ValueError(f"Frechet distance: needs at least 2 images, got {len(features)}")
        return cls(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))

    @cached_property
    def root(self) -> Features:
        """Symmetric square root of the covariance, (F, F)."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: Features = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        return root


def frechet_distance(real: Moments, generated: Moments) -> float:
    """Return |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), the squared distance of Heusel et al. 2017, eq. 6.

    The trace of (C C')^1/2 is that of (C^1/2 C' C^1/2)^1/2. The latter matrix is symmetric, so its
    eigenvalues are real even if the covariances are singular because N < F.
    """
    values = np.linalg.eigvalsh(real.root @ generated.covariance @ real.root)
    traces = np.trace(real.covariance) + np.trace(generated.covariance)
    distance = np.square(real.mean - generated.mean).sum() + traces - 2 * np.sqrt(values.clip(0)).sum()
    return max(0.0, float(distance))


def frechet_score(
    metric: str, real: Moments, generated: Features, protocol: str, *, halves: int = 100
) -> Score:
    """Return the Frechet distance of generated features (N, F), with its interval.

    Raises:
        ValueError: there are fewer than four generated images.
    """
    if len(generated) < 4:
        raise ValueError(f"{metric}: needs at least 4 generated images, got {len(generated)}")

    def distance(features: Features) -> float:
        return frechet_distance(real, Moments.from_features(features))

    return half_sample_score(metric, distance, generated, protocol, halves=halves)


def precision_recall_scores(
    real: Features, generated: Features, protocol: str, *, k: int = 3, halves: int = 100
) -> list[Score]:
    """Return improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2).

    Precision is the share of generated images in the manifold of the real ones, with Wilson's interval;
    recall is the share of real images in the manifold of the generated ones, with that of
    `half_sample_score`.

    Args:
        real: (N, F).
        generated: (M, F).

    Raises:
        ValueError: there are not more than k real images, or half of the generated images is not more
            than k.
    """
    if len(generated) // 2 <= k:
        raise ValueError(f"recall: needs at least {2 * k + 2} generated images, got {len(generated)}")
    hits = int(in_manifold(generated, real, k).sum())

    def recall(features: Features) -> float:
        return float(in_manifold(real, features, k).mean())

    recall_score = half_sample_score("recall", recall, generated, protocol, halves=halves, high=1.0)
    return [share("precision", hits, len(generated), protocol), recall_score]


def in_manifold(points: Features, centres: Features, k: int) -> npt.NDArray[np.bool_]:
    """Return which of the points (M, F) lie in the manifold of the centres (N, F), as (M,).

    The manifold is a union of balls, one around each centre, whose radius is the distance to the k-th
    nearest other centre.

    Raises:
        ValueError: there are not more than k centres.
    """
    squared_radii = _squared_radii(centres, k)
    chunks = (points[row : row + CHUNK] for row in range(0, len(points), CHUNK))
    return np.concatenate(
        [(_squared_distances(chunk, centres) <= squared_radii).any(axis=1) for chunk in chunks]
    )


def _squared_radii(centres: Features, k: int) -> Features:
    """Return squared distances (N,) to the k-th nearest other centre."""
    if len(centres) <= k:
        raise ValueError(f"precision and recall: need more than k = {k} images, got {len(centres)}")
    chunks = (centres[row : row + CHUNK] for row in range(0, len(centres), CHUNK))
    # Index 0 is the distance of a centre to itself.
    return np.concatenate([np.partition(_squared_distances(chunk, centres), k)[:, k] for chunk in chunks])


def _squared_distances(a: Features, b: Features) -> Features:
    """Return squared Euclidean distances (M, N) between a (M, F) and b (N, F)."""
    products = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    distances: Features = products.clip(0)
    return distances


def half_sample_score(
    metric: str,
    statistic: Callable[[Features], float],
    generated: Features,
    protocol: str,
    *,
    halves: int = 100,
    high: float = float("inf"),
) -> Score:
    """Return `statistic` of all generated images, with an interval from its spread over random halves.

    Halves are taken without replacement: over them a statistic spreads as over new sets of N images
    (the delete-half jackknife, Shao and Wu 1989). A bootstrap would take an image twice, which shrinks
    the balls of the recall and biases the Frechet distance. The interval is centred on the value of all
    N images, so the bias of a half does not enter. The real images are taken as given. The interval
    is a little wide for distances and recall.

    Args:
        generated: (N, F).
        halves: number of random halves.
        high: largest value that the metric can have; the smallest is 0.
    """
    rng, value = np.random.default_rng(0), statistic(generated)
    picks = (rng.permutation(len(generated))[: len(generated) // 2] for _ in range(halves))
    half_width = Z95 * float(np.std([statistic(generated[pick]) for pick in picks], ddof=1))
    low_end, high_end = max(0.0, value - half_width), min(high, value + half_width)
    return Score(metric, value, len(generated), low_end, high_end, protocol)
