"""How early the end of a training can be foretold, and what halving by an early look would have saved.

Computed from the looks that every training of a study had anyway.
Shapes: D bootstrap draws, A arms, S seeds, L looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from typing import Any

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from orchestrator.analysis.statistics import SEED, Estimate, Floats, over_seeds

DRAWS = 1_000
FACTORS = (2, 3, 4)
"""One arm in so many goes on after the early look."""
DEFINITIONS = {
    "foretold": "Spearman's rank correlation of an early look with the last one, within a backbone, then the "
    "mean over backbones: of arms (each the mean of its seeds: which setting is better?) and of single "
    "trainings. Its 95 % interval is the percentiles of 1,000 draws of seeds with replacement.",
    "halving": "Played again on these looks: all arms of one seed are trained to the early look, the best of "
    "them to the end, and the best of those is chosen. `cost` is its share of the steps of training all to "
    "the end; `loss` is how much better the choice after training all would have been, both judged by the "
    "chosen arm's other seeds: mean over backbones and seeds, t interval over seeds.",
}


def early(cells: Sequence[Mapping[str, Any]], metric: str, higher: bool) -> dict[str, Any]:
    """What each early look of `metric` foretells; empty where arms, seeds or looks are too few."""
    grids = [grid for grid in _grids(cells, metric, higher).values() if min(grid.shape) > 1]
    if not grids or len({grid.shape[2] for grid in grids}) > 1:
        return {}
    looks = grids[0].shape[2]
    return {
        "looks": looks,
        "foretold": [_foretold(grids, look) for look in range(1, looks)],
        "halving": [_halving(grids, look, factor) for look in range(1, looks) for factor in FACTORS],
    }


def _grids(cells: Sequence[Mapping[str, Any]], metric: str, higher: bool) -> dict[str, Floats]:
    """By backbone (A, S, L), higher is better; of the seeds that all its arms have.

    A training that collapsed keeps its last score.
    """
    by_backbone: dict[str, list[Mapping[int, Sequence[float]]]] = {}
    for cell in cells:
        if metric in cell["metrics"]:
            by_backbone.setdefault(cell["backbone"], []).append(cell["metrics"][metric]["histories"])
    grids = {}
    for backbone, arms in by_backbone.items():
        seeds = sorted(set.intersection(*(set(histories) for histories in arms)))
        looks = max(len(each) for histories in arms for each in histories.values())
        rows = [[_padded(histories[seed], looks) for seed in seeds] for histories in arms]
        if seeds:
            grids[backbone] = (1.0 if higher else -1.0) * np.array(rows)
    return grids


def _padded(looks: Sequence[float], length: int) -> list[float]:
    return [*looks, *[looks[-1]] * (length - len(looks))]


def _foretold(grids: Sequence[Floats], look: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    arms, trainings = [], []
    for grid in grids:
        seeds = grid.shape[1]
        # The first draw is the seeds themselves.
        drawn = np.vstack([np.arange(seeds), rng.integers(seeds, size=(DRAWS, seeds))])
        both = grid[:, drawn][..., [look - 1, -1]].transpose(1, 3, 0, 2)  # (D, 2, A, S)
        arms.append(_spearman(both.mean(3)))
        trainings.append(_spearman(both.reshape(*both.shape[:2], -1)))
    return {"look": look, "arms": _interval(arms), "trainings": _interval(trainings)}


def _spearman(both: Floats) -> Floats:
    """(D,) of `both` (D, 2, N); Pearson's correlation of the ranks. 0 where all are equal."""
    placed = rankdata(both, axis=2)
    placed = placed - placed.mean(2, keepdims=True)
    scale = np.sqrt((placed**2).sum(2).prod(1))
    correlation: Floats = (placed[:, 0] * placed[:, 1]).sum(1) / np.where(scale > 0, scale, 1)
    return correlation


def _interval(by_backbone: Sequence[Floats]) -> dict[str, Any]:
    mean = np.mean(by_backbone, axis=0)
    low, high = np.percentile(mean[1:], [2.5, 97.5])
    return {
        **asdict(Estimate(float(mean[0]), float(low), float(high))),
        "by_backbone": [float(own[0]) for own in by_backbone],
    }


def _halving(grids: Sequence[Floats], look: int, factor: int) -> dict[str, Any]:
    costs, losses = [], []
    for grid in grids:
        arms, seeds, looks = grid.shape
        kept = ceil(arms / factor)
        costs.append((arms * look + kept * (looks - look)) / (arms * looks))
        losses.append([_loss(grid, seed, look, kept) for seed in range(seeds)])
    fewest = min(map(len, losses))
    by_seed = np.mean([own[:fewest] for own in losses], axis=0)
    return {
        "look": look,
        "one_in": factor,
        "cost": float(np.mean(costs)),
        "loss": asdict(over_seeds([float(loss) for loss in by_seed])),
    }


def _loss(grid: Floats, seed: int, look: int, kept: int) -> float:
    """What the arm that training all would choose has before the one that halving chooses, by other seeds."""
    last = grid[:, seed, -1]
    going_on = np.argsort(-grid[:, seed, look - 1], kind="stable")[:kept]
    chosen, best = going_on[np.argmax(last[going_on])], np.argmax(last)
    others = np.delete(grid[:, :, -1], seed, axis=1).mean(1)
    return float(others[best] - others[chosen])
