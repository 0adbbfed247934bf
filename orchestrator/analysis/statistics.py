"""Statistics of a study over seeds: intervals, the bootstrap of worst cases, a sign-flip test of pairs.

Shapes: A arms, B backbones, S seeds, D bootstrap draws, N pairs, F sign flips.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # type: ignore[import-untyped]

from orchestrator.analysis.rows import EstimateRow

DRAWS = 10_000
SEED = 0
"""Seed of the bootstrap, and of sign flips if there are too many to try all."""
MAX_EXACT_PAIRS = 16
"""Largest number of pairs for which every sign flip is tried; for more, a random 2^16 of them."""
Floats = npt.NDArray[np.float64]
BySeed = Mapping[int, float]
Cells = Mapping[str, Mapping[str, BySeed]]
"""A metric by arm, backbone and seed."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, which is None if the spread is unknown."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def row(self) -> EstimateRow:
        return {"value": self.value, "low": self.low, "high": self.high}


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of `values` (S,), with Student's t interval of S - 1 degrees of freedom."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of `values` (S,), with S - 1 in the denominator; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def oscillation(scores: Sequence[float], higher_is_better: bool) -> float | None:
    """Return the mean worsening between successive scores: sum of max(0, worsening) / (len(scores) - 1).

    0 for a training that only improves, however fast: differences remove the trend (as in Chan et al.
    2020, arXiv 1912.05663), and only those for the worse count. None for fewer than three scores.
    """
    if len(scores) < 3:
        return None
    worse = np.diff(scores) * (-1 if higher_is_better else 1)
    return float(np.maximum(worse, 0).mean())


def bootstrap_means(cells: Cells) -> Floats:
    """Return means (A, B, D) over seeds drawn with replacement within each backbone.

    If all arms of a backbone have the same seeds, which share noise and prompts, each draw takes
    the same seeds for all of them.
    """
    rng = np.random.default_rng(SEED)
    backbones = list(next(iter(cells.values())))
    columns = []
    for backbone in backbones:
        own = [cells[arm][backbone] for arm in cells]
        shared = all(values.keys() == own[0].keys() for values in own)
        drawn = rng.integers(len(own[0]), size=(DRAWS, len(own[0])))
        means = []
        for values in own:
            if not shared:
                drawn = rng.integers(len(values), size=(DRAWS, len(values)))
            means.append(np.array([values[seed] for seed in sorted(values)])[drawn].mean(1))
        columns.append(means)
    return np.array(columns).swapaxes(0, 1)


def ranks(scores: Floats) -> Floats:
    """Return ranks (A, D) of `scores` (A, D), higher is better, 1 the best; equals share the better rank."""
    columns = zip(np.sort(-scores, 0).T, -scores.T, strict=True)
    return 1.0 + np.stack([np.searchsorted(ordered, own) for ordered, own in columns], 1)


def probability_of_best(scores: Floats) -> Floats:
    """Return the share (A,) of draws of `scores` (A, D) in which an arm is best; equals share a draw."""
    best = scores == scores.max(0)
    shares: Floats = (best / best.sum(0)).mean(1)
    return shares


def mean_difference(pairs: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean over backbones of each one's mean difference, with its t interval.

    `pairs`: (B, S), a difference per backbone and seed. Backbones are a fixed set, not a sample, so the
    error is that over seeds within each: se^2 = sum s_b^2 / n_b / B^2, with the degrees of freedom of
    Welch and Satterthwaite.
    """
    value = float(np.mean([np.mean(differences) for differences in pairs]))
    if min(map(len, pairs)) < 2:
        return Estimate(value)
    parts = [deviation(differences) ** 2 / len(differences) for differences in pairs]
    if not sum(parts):
        return Estimate(value, value, value)
    freedom = sum(parts) ** 2 / sum(p**2 / (len(d) - 1) for p, d in zip(parts, pairs, strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(sum(parts)) / len(pairs)
    return Estimate(value, value - half, value + half)


def sign_flip_p(pairs: Sequence[Sequence[float]]) -> float:
    """Return the two-sided p of the mean of `pairs` (B, S): share of sign flips with a mean as far from 0.

    Exact for at most `MAX_EXACT_PAIRS` pairs, because then each of the 2^N flips is tried.
    """
    weighted = np.concatenate([np.asarray(each) / len(each) / len(pairs) for each in pairs])
    flipped = np.abs(_signs(len(weighted)) @ weighted)
    # Equal sums may differ by rounding, depending on the order of summation.
    observed = abs(weighted.sum()) * (1 - 1e-9) - 1e-15
    return float((flipped >= observed).mean())


@cache
def _signs(pairs: int) -> Floats:
    """Return signs (F, N) of +1 and -1; for many pairs a random choice that includes the observed signs."""
    if pairs <= MAX_EXACT_PAIRS:
        bits = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        bits = np.random.default_rng(SEED).integers(2, size=(2**MAX_EXACT_PAIRS, pairs))
        bits[0] = 1
    signs: Floats = np.where(bits, 1.0, -1.0)
    return signs
