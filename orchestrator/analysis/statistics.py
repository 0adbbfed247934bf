"""The statistics of a study over seeds: intervals, the bootstrap of worst cases, a test of pairs.

Shapes: D bootstrap draws, A arms, S seeds, N pairs, B backbones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # type: ignore[import-untyped]

DRAWS = 10_000
SEED = 0
"""Of the bootstrap, and of sign flips where there are too many to try all."""
MOST_EXACT = 16
"""Pairs of which every sign flip is tried; of more a random 2^16 of them."""
Floats = npt.NDArray[np.float64]
BySeed = Mapping[int, float]
Cells = Mapping[str, Mapping[str, BySeed]]
"""A metric by arm, backbone and seed."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, which is absent where nothing is known of the spread."""

    value: float
    low: float | None = None
    high: float | None = None


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of a number per seed, with Student's t interval of S - 1 degrees of freedom."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, of S - 1; 0 of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def oscillation(looks: Sequence[float], higher_is_better: bool) -> float | None:
    """Mean worsening between successive looks: sum of max(0, how much worse) / (looks - 1).

    0 of a training that only ever gets better, however fast: differences take the trend out (as in
    Chan et al. 2020, arXiv 1912.05663), and of them only those for the worse count. None of fewer
    than three looks.
    """
    if len(looks) < 3:
        return None
    worse = np.diff(looks) * (-1 if higher_is_better else 1)
    return float(np.maximum(worse, 0).mean())


def bootstrap_means(cells: Cells) -> Floats:
    """(A, B, D) means over seeds drawn with replacement, within each backbone.

    Where all arms of a backbone have the same seeds, which share noise and prompts, each draw takes
    the same seeds of all of them.
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
    """(A, D) ranks of `scores` (A, D), higher is better, 1 the best; equals share the better rank."""
    columns = zip(np.sort(-scores, 0).T, -scores.T, strict=True)
    return 1.0 + np.stack([np.searchsorted(ordered, own) for ordered, own in columns], 1)


def probability_of_best(scores: Floats) -> Floats:
    """(A,) share of draws of `scores` (A, D) in which an arm is best; equals share a draw."""
    best = scores == scores.max(0)
    shares: Floats = (best / best.sum(0)).mean(1)
    return shares


def mean_difference(pairs: Sequence[Sequence[float]]) -> Estimate:
    """Mean over backbones of each one's mean difference, with its t interval.

    `pairs`: by backbone, a difference per seed. Backbones are not drawn from anything, so the error
    is that over seeds within each: se^2 = sum s_b^2 / n_b / B^2, freedom by Welch and Satterthwaite.
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
    """Two-sided p of the same mean: how often flipped signs make one at least as far from 0.

    Exact where there are few pairs, since then every one of the 2^N flips is tried.
    """
    weighted = np.concatenate([np.asarray(each) / len(each) / len(pairs) for each in pairs])
    flipped = np.abs(_signs(len(weighted)) @ weighted)
    # Equal sums differ by rounding, by how they were added up.
    observed = abs(weighted.sum()) * (1 - 1e-9) - 1e-15
    return float((flipped >= observed).mean())


@cache
def _signs(pairs: int) -> Floats:
    """(F, N) of +1 and -1; of many pairs a random choice, in which the observed signs are one."""
    if pairs <= MOST_EXACT:
        bits = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        bits = np.random.default_rng(SEED).integers(2, size=(2**MOST_EXACT, pairs))
        bits[0] = 1
    signs: Floats = np.where(bits, 1.0, -1.0)
    return signs
