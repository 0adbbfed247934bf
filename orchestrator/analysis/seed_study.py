"""What a sweep says when its seeds are taken together: arms, backbones, and a ranking with its doubt.

An arm is a combination of what the sweep varied within a backbone, seeds apart; or what its file
names under `arms`. `study` computes from plain rows, `tracking.trainings` reads those from MLflow,
`study_page` shows the outcome, and its words for each number are `DEFINITIONS`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from orchestrator.analysis.early_stopping import DEFINITIONS as EARLY_DEFINITIONS
from orchestrator.analysis.early_stopping import early
from orchestrator.analysis.statistics import (
    Cells,
    Estimate,
    Floats,
    bootstrap_means,
    deviation,
    mean_difference,
    oscillation,
    over_seeds,
    probability_of_best,
    ranks,
    sign_flip_p,
)
from workloads.scorers.score import share

HIGHER_IS_BETTER = {
    "attribute_accuracy": True, "frechet_distance": False, "fid": False, "precision": True,
    "recall": True, "hps_v2.1": True, "hps_v2.0": True, "clip_plus": True, "prompt_accuracy": True,
}  # fmt: skip
"""The metrics that are compared, in this order, and whether higher is better."""
ENDED = ("finished", "collapsed")
"""Statuses of the trainings that are compared: they had the whole budget, or ended by themselves."""
MOST_COMPARED = 30
"""Arms of which every two are compared."""
APART = ("arm", "backbone", "model", "seed", "start_timestep")
"""Settings that make no arm: an arm is of a backbone, and over seeds."""
DEFINITIONS = {
    "value": "The last score measured in a training; of a collapsed one too, if there is one.",
    "mean": "Mean over seeds, with Student's t 95 % interval (seeds - 1 degrees of freedom).",
    "collapse_rate": "Share of the trainings that ended and had collapsed, with Wilson's 95 % interval.",
    "oscillation": "Mean worsening between successive looks of a training, 0 if it only gets better; "
    "mean over seeds, t interval. Three looks or more.",
    "worst": "The worst of the backbones' means. Its 95 % interval is the percentiles of 10,000 draws of "
    "seeds with replacement within each backbone, the same seeds of all arms where all have the same. Of few "
    "seeds it is too narrow: of one mean over five, Student's t would be 1.6 times as wide.",
    "best_probability": "Share of those draws in which the arm's worst backbone is better than that of every "
    "other; the interval of its rank is over the same draws.",
    "difference": "First less second arm, pairs of one backbone and seed: mean over backbones of the mean "
    "over seeds, its t interval (Welch-Satterthwaite) and two-sided p of flipped signs (exact up to 16 "
    "pairs; for one comparison, not corrected for how many are made).",
}


@dataclass(frozen=True)
class Training:
    """One training, as it was recorded."""

    trial: str
    backbone: str
    seed: int
    settings: Mapping[str, str]
    """Flat."""
    status: str
    """Of `ledger.Status`; empty: it has not ended."""
    histories: Mapping[str, Sequence[float]]
    """Metrics of `HIGHER_IS_BETTER`, look after look; none of those that were not measured."""


def study(trainings: Sequence[Training]) -> dict[str, Any]:
    """The content of `report.json`: `cells` are arms on backbones, `rankings` and `early` are by metric."""
    labels, settings = _arms(trainings)
    backbones = list(dict.fromkeys(t.backbone for t in trainings))
    arms = list(dict.fromkeys(labels))
    ended = [(label, t) for label, t in zip(labels, trainings, strict=True) if t.status in ENDED]
    cells = [
        _cell(arm, backbone, [t for label, t in ended if (label, t.backbone) == (arm, backbone)])
        for arm in arms
        for backbone in backbones
    ]
    cells = [cell for cell in cells if cell["ended"]]
    metrics = [name for name in HIGHER_IS_BETTER if any(name in cell["metrics"] for cell in cells)]
    return {
        "definitions": DEFINITIONS | EARLY_DEFINITIONS,
        "trainings": len(trainings),
        "status": {each: sum((t.status or "not ended") == each for t in trainings)
                   for each in dict.fromkeys(t.status or "not ended" for t in trainings)},
        "backbones": backbones,
        "arms": [
            {"arm": arm, "settings": settings[arm], **_collapses([t for own, t in ended if own == arm])}
            for arm in arms
        ],
        "cells": cells,
        "rankings": {
            metric: _ranking(cells, backbones, metric, "values", HIGHER_IS_BETTER[metric])
            | {"oscillation": _ranking(cells, backbones, metric, "oscillations", False)}
            for metric in metrics
        },
        "early": {
            metric: found for metric in metrics if (found := early(cells, metric, HIGHER_IS_BETTER[metric]))
        },
    }  # fmt: skip


def has_seeds(trainings: Iterable[Training]) -> bool:
    """Whether any arm was trained at more than one seed on a backbone."""
    rows = list(trainings)
    labels, _ = _arms(rows)
    pairs = [(label, t.backbone) for label, t in zip(labels, rows, strict=True)]
    return len(set(pairs)) < len(pairs)


def _arms(trainings: Sequence[Training]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Each training's arm, and each arm's settings, of those that the sweep varied."""
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault((training.backbone, training.settings.get("arm", "")), []).append(training)
    keys = list(dict.fromkeys(key for t in trainings for key in t.settings if key not in APART))
    inner = [key for key in keys if any(_differ(key, group) for group in groups.values())]
    backbones = {t.backbone: [u for u in trainings if u.backbone == t.backbone] for t in trainings}
    shown = [key for key in keys if any(_differ(key, group) for group in backbones.values())]
    labels, settings = [], {}
    for training in trainings:
        own = training.settings
        words = [own.get("arm", ""), *(f"{key} {own[key]}" for key in inner if key in own)]
        label = ", ".join(word for word in words if word) or "all others at their defaults"
        labels.append(label)
        settings[label] = {key: own[key] for key in shown if key in own}
    return labels, settings


def _differ(key: str, trainings: Sequence[Training]) -> bool:
    return len({t.settings.get(key) for t in trainings}) > 1


def _cell(arm: str, backbone: str, trainings: Sequence[Training]) -> dict[str, Any]:
    found = {metric: _measured(metric, trainings) for metric in HIGHER_IS_BETTER}
    return {
        "arm": arm,
        "backbone": backbone,
        **_collapses(trainings),
        "metrics": {metric: each for metric, each in found.items() if each},
    }


def _collapses(trainings: Sequence[Training]) -> dict[str, Any]:
    count = sum(t.status == "collapsed" for t in trainings)
    rate = share("collapse_rate", count, len(trainings), "") if trainings else None
    return {
        "ended": len(trainings),
        "collapsed": count,
        "collapse_rate": asdict(Estimate(rate.value, rate.low, rate.high)) if rate else None,
    }


def _measured(metric: str, trainings: Sequence[Training]) -> dict[str, Any]:
    """Of one cell: values by seed, their mean and spread, the mean course, the oscillation."""
    histories = {t.seed: list(t.histories[metric]) for t in trainings if t.histories.get(metric)}
    if not histories:
        return {}
    values = {seed: looks[-1] for seed, looks in histories.items()}
    swings = {seed: oscillation(looks, HIGHER_IS_BETTER[metric]) for seed, looks in histories.items()}
    known = {seed: swing for seed, swing in swings.items() if swing is not None}
    return {
        "values": values,
        **asdict(over_seeds(list(values.values()))),
        "deviation": deviation(list(values.values())),
        "histories": histories,
        "oscillations": known,
        "oscillation": asdict(over_seeds(list(known.values()))) if known else None,
    }


def _ranking(
    cells: Sequence[Mapping[str, Any]], backbones: Sequence[str], metric: str, of: str, higher: bool
) -> dict[str, Any]:
    """Arms by their worst backbone, best first, in what `of` names; those that lack a backbone are not."""
    by_arm: dict[str, dict[str, dict[int, float]]] = {}
    for cell in cells:
        if cell["metrics"].get(metric, {}).get(of):
            by_arm.setdefault(cell["arm"], {})[cell["backbone"]] = cell["metrics"][metric][of]
    measured = [name for name in backbones if any(name in own for own in by_arm.values())]
    whole = {arm: {b: own[b] for b in measured} for arm, own in by_arm.items() if len(own) == len(measured)}
    seeds = min((len(values) for own in whole.values() for values in own.values()), default=0)
    sign = 1.0 if higher else -1.0
    # (A, D): the worst backbone of each draw, higher is better.
    draws = (sign * bootstrap_means(whole)).min(1) if seeds > 1 else None
    return {
        "better": "higher" if higher else "lower",
        "backbones": measured,
        "fewest_seeds": seeds,
        "arms": _ranked(whole, sign, draws),
        "not_ranked": [arm for arm in by_arm if arm not in whole],
        "differences": _differences(whole, sign, draws),
    }


def _ranked(cells: Cells, sign: float, draws: Floats | None) -> list[dict[str, Any]]:
    rows = []
    best = probability_of_best(draws) if draws is not None else None
    placed = ranks(draws) if draws is not None else None
    for index, (arm, own) in enumerate(cells.items()):
        means = {backbone: over_seeds(list(values.values())).value for backbone, values in own.items()}
        worst = min(means, key=lambda backbone: sign * means[backbone])
        low, high = _percentiles(sign * draws[index]) if draws is not None else (None, None)
        rank_low, rank_high = _percentiles(placed[index]) if placed is not None else (None, None)
        rows.append(
            {
                "arm": arm,
                "worst_backbone": worst,
                "worst": means[worst],
                "low": low,
                "high": high,
                "best_probability": float(best[index]) if best is not None else None,
                "rank_low": rank_low,
                "rank_high": rank_high,
            }
        )
    return sorted(rows, key=lambda row: -sign * row["worst"])


def _differences(cells: Cells, sign: float, draws: Floats | None) -> list[dict[str, Any]]:
    """Every two arms that share a seed on every backbone; of very many arms the best ones."""
    rows = []
    best = sorted(enumerate(cells), key=lambda each: -sign * _worst(cells[each[1]], sign))[:MOST_COMPARED]
    for (i, first), (j, second) in combinations(sorted(best), 2):
        pairs = [
            [own[seed] - cells[second][backbone][seed] for seed in own if seed in cells[second][backbone]]
            for backbone, own in cells[first].items()
        ]
        if not all(pairs):
            continue
        worst = _percentiles(sign * (draws[i] - draws[j])) if draws is not None else (None, None)
        rows.append(
            {
                "first": first,
                "second": second,
                "pairs": sum(map(len, pairs)),
                **asdict(mean_difference(pairs)),
                "p": sign_flip_p(pairs) if draws is not None else None,
                "worst": _worst(cells[first], sign) - _worst(cells[second], sign),
                "worst_low": worst[0],
                "worst_high": worst[1],
            }
        )
    return rows


def _worst(own: Mapping[str, Mapping[int, float]], sign: float) -> float:
    return sign * min(sign * over_seeds(list(values.values())).value for values in own.values())


def _percentiles(draws: Floats) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
