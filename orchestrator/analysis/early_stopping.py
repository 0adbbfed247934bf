"""Early stopping of a study: how well early scores predict the end, and what successive halving would save.

Computed from the evaluations that every training of a study had anyway.
Shapes: D bootstrap draws, A arms, S seeds, L evaluations of a training, N items to rank.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from orchestrator.analysis.rows import CorrelationRow, EarlyCorrelationRow, EarlyStoppingRow, HalvingRow
from orchestrator.analysis.statistics import SEED, Estimate, Floats, over_seeds

DRAWS = 1_000
FACTORS = (2, 3, 4)
"""One in this many arms continues after the early evaluation."""
DEFINITIONS = {
    "foretold": "Spearman's rank correlation of an early look with the last one, within a backbone, then the "
    "mean over backbones: of arms (each the mean of its seeds: which setting is better?) and of single "
    "trainings. Its 95 % interval is the percentiles of 1,000 draws of seeds with replacement.",
    "halving": "Played again on these looks: all arms of one seed are trained to the early look, the best of "
    "them to the end, and the best of those is chosen. `cost` is its share of the steps of training all to "
    "the end; `loss` is how much better the choice after training all would have been, both judged by the "
    "chosen arm's other seeds: mean over backbones and seeds, t interval over seeds.",
}
Histories = Mapping[int, Sequence[float]]
"""Scores of an arm on a backbone by seed, one per evaluation."""


def early_stopping(arms: Mapping[str, Sequence[Histories]], higher: bool) -> EarlyStoppingRow | None:
    """Return how well each early evaluation of a metric predicts the last one.

    None if there are too few arms, seeds or evaluations, or if backbones differ in their evaluations.

    Args:
        arms: histories of every arm, by backbone.
        higher: True if a higher score is better.
    """
    grids = [grid for grid in (_grid(own, higher) for own in arms.values()) if min(grid.shape) > 1]
    if not grids or len({grid.shape[2] for grid in grids}) > 1:
        return None
    count = grids[0].shape[2]
    return {
        "looks": count,
        "foretold": [_correlations(grids, evaluation) for evaluation in range(1, count)],
        "halving": [
            _halving(grids, evaluation, factor) for evaluation in range(1, count) for factor in FACTORS
        ],
    }


def _grid(arms: Sequence[Histories], higher: bool) -> Floats:
    """Return scores (A, S, L) of the seeds that all arms have, with a sign so that higher is better.

    A training that collapsed keeps its last score.
    """
    seeds = sorted(set.intersection(*(set(histories) for histories in arms)))
    count = max(len(scores) for histories in arms for scores in histories.values())
    rows = [[_padded(histories[seed], count) for seed in seeds] for histories in arms]
    return (1.0 if higher else -1.0) * np.array(rows).reshape(len(arms), len(seeds), count)


def _padded(scores: Sequence[float], length: int) -> list[float]:
    return [*scores, *[scores[-1]] * (length - len(scores))]


def _correlations(grids: Sequence[Floats], evaluation: int) -> EarlyCorrelationRow:
    rng = np.random.default_rng(SEED)
    arms, trainings = [], []
    for grid in grids:
        seeds = grid.shape[1]
        # The first draw is the seeds themselves.
        drawn = np.vstack([np.arange(seeds), rng.integers(seeds, size=(DRAWS, seeds))])
        both = grid[:, drawn][..., [evaluation - 1, -1]].transpose(1, 3, 0, 2)  # (D, 2, A, S)
        arms.append(_spearman(both.mean(3)))
        trainings.append(_spearman(both.reshape(*both.shape[:2], -1)))
    return {"look": evaluation, "arms": _interval(arms), "trainings": _interval(trainings)}


def _spearman(both: Floats) -> Floats:
    """Return Spearman's correlation (D,) of `both` (D, 2, N): Pearson's of the ranks; 0 if all are equal."""
    placed = rankdata(both, axis=2)
    placed = placed - placed.mean(2, keepdims=True)
    scale = np.sqrt((placed**2).sum(2).prod(1))
    correlation: Floats = (placed[:, 0] * placed[:, 1]).sum(1) / np.where(scale > 0, scale, 1)
    return correlation


def _interval(by_backbone: Sequence[Floats]) -> CorrelationRow:
    mean = np.mean(by_backbone, axis=0)
    low, high = np.percentile(mean[1:], [2.5, 97.5])
    estimate = Estimate(float(mean[0]), float(low), float(high))
    return {**estimate.row, "by_backbone": [float(own[0]) for own in by_backbone]}


def _halving(grids: Sequence[Floats], evaluation: int, factor: int) -> HalvingRow:
    costs, losses = [], []
    for grid in grids:
        arms, seeds, count = grid.shape
        kept = ceil(arms / factor)
        costs.append((arms * evaluation + kept * (count - evaluation)) / (arms * count))
        losses.append([_loss(grid, seed, evaluation, kept) for seed in range(seeds)])
    fewest = min(map(len, losses))
    by_seed = np.mean([own[:fewest] for own in losses], axis=0)
    return {
        "look": evaluation,
        "one_in": factor,
        "cost": float(np.mean(costs)),
        "loss": over_seeds([float(loss) for loss in by_seed]).row,
    }


def _loss(grid: Floats, seed: int, evaluation: int, kept: int) -> float:
    """Return the score of the best arm of all less that of halving's choice, judged by the other seeds."""
    last = grid[:, seed, -1]
    continued = np.argsort(-grid[:, seed, evaluation - 1], kind="stable")[:kept]
    chosen, best = continued[np.argmax(last[continued])], np.argmax(last)
    others = np.delete(grid[:, :, -1], seed, axis=1).mean(1)
    return float(others[best] - others[chosen])
