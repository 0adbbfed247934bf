"""Study of a sweep over its seeds: arms on backbones, and rankings of arms with their uncertainty.

An arm is a combination of the settings, seeds excepted, that the sweep varied within a backbone; or an
entry of the file's section `arms`. `tracking.history` reads a sweep's trainings from MLflow, `study`
computes rows (`rows`) from them, `reporting.study_report` shows these with the texts of `DEFINITIONS`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from orchestrator.analysis.early_stopping import DEFINITIONS as EARLY_DEFINITIONS
from orchestrator.analysis.early_stopping import Histories, early_stopping
from orchestrator.analysis.rows import (
    ArmRow,
    CellRow,
    CollapseRow,
    DifferenceRow,
    EarlyStoppingRow,
    MetricRankingRow,
    MetricRow,
    RankedArmRow,
    RankingRow,
    Study,
)
from orchestrator.analysis.stability import stability
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
from orchestrator.analysis.training import COMPARED_STATUSES, Training
from workloads.scorers.score import share

HIGHER_IS_BETTER = {
    "attribute_accuracy": True, "frechet_distance": False, "fid": False, "precision": True,
    "recall": True, "hps_v2.1": True, "hps_v2.0": True, "clip_plus": True, "prompt_accuracy": True,
}  # fmt: skip
"""Metrics that are compared, in this order; True if higher is better."""
MAX_COMPARED_ARMS = 30
"""Largest number of arms of which every two are compared."""
NOT_IN_ARMS = ("arm", "backbone", "model", "seed", "start_timestep")
"""Settings that do not distinguish arms: an arm is named for all backbones and seeds."""
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


def study(trainings: Sequence[Training]) -> Study:
    """Return the content of `report.json`; `cells` are arms on backbones."""
    labels, settings = _arms(trainings)
    backbones = list(dict.fromkeys(t.backbone for t in trainings))
    arms = list(dict.fromkeys(labels))
    ended = [(label, t) for label, t in zip(labels, trainings, strict=True) if t.status in COMPARED_STATUSES]
    cells = [
        _cell(arm, backbone, [t for label, t in ended if (label, t.backbone) == (arm, backbone)])
        for arm in arms
        for backbone in backbones
    ]
    cells = [cell for cell in cells if cell["ended"]]
    metrics = [name for name in HIGHER_IS_BETTER if any(name in cell["metrics"] for cell in cells)]
    found: Study = {
        "definitions": DEFINITIONS | EARLY_DEFINITIONS,
        "trainings": len(trainings),
        "status": _statuses(trainings),
        "backbones": backbones,
        "arms": [_arm(arm, settings[arm], [t for own, t in ended if own == arm]) for arm in arms],
        "cells": cells,
        "rankings": {metric: _rankings(cells, backbones, metric) for metric in metrics},
        "early": {metric: row for metric in metrics if (row := _early_stopping(cells, metric))},
    }
    if (regions := stability([each for _, each in ended])) is not None:
        found["stability"] = regions
    return found


def has_seeds(trainings: Iterable[Training]) -> bool:
    """Return True if any arm was trained with more than one seed on a backbone."""
    rows = list(trainings)
    labels, _ = _arms(rows)
    pairs = [(label, t.backbone) for label, t in zip(labels, rows, strict=True)]
    return len(set(pairs)) < len(pairs)


def _arms(trainings: Sequence[Training]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return each training's arm, and by arm the settings that the sweep varied."""
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault((training.backbone, training.settings.get("arm", "")), []).append(training)
    keys = list(dict.fromkeys(key for t in trainings for key in t.settings if key not in NOT_IN_ARMS))
    inner = [key for key in keys if any(_varies(key, group) for group in groups.values())]
    backbones = {t.backbone: [u for u in trainings if u.backbone == t.backbone] for t in trainings}
    shown = [key for key in keys if any(_varies(key, group) for group in backbones.values())]
    labels, settings = [], {}
    for training in trainings:
        own = training.settings
        words = [own.get("arm", ""), *(f"{key} {own[key]}" for key in inner if key in own)]
        label = ", ".join(word for word in words if word) or "all others at their defaults"
        labels.append(label)
        settings[label] = {key: own[key] for key in shown if key in own}
    return labels, settings


def _varies(key: str, trainings: Sequence[Training]) -> bool:
    return len({t.settings.get(key) for t in trainings}) > 1


def _statuses(trainings: Sequence[Training]) -> dict[str, int]:
    statuses = [t.status or "not ended" for t in trainings]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _arm(arm: str, settings: dict[str, str], trainings: Sequence[Training]) -> ArmRow:
    return {"arm": arm, "settings": settings, **_collapses(trainings)}


def _cell(arm: str, backbone: str, trainings: Sequence[Training]) -> CellRow:
    found = {metric: _metric(metric, trainings) for metric in HIGHER_IS_BETTER}
    return {
        "arm": arm,
        "backbone": backbone,
        **_collapses(trainings),
        "metrics": {metric: row for metric, row in found.items() if row is not None},
    }


def _collapses(trainings: Sequence[Training]) -> CollapseRow:
    count = sum(t.status == "collapsed" for t in trainings)
    rate = share("collapse_rate", count, len(trainings), "") if trainings else None
    return {
        "ended": len(trainings),
        "collapsed": count,
        "collapse_rate": Estimate(rate.value, rate.low, rate.high).row if rate else None,
    }


def _metric(metric: str, trainings: Sequence[Training]) -> MetricRow | None:
    """Return a metric of the trainings of one cell; None if none of them measured it."""
    histories = {t.seed: list(t.histories[metric]) for t in trainings if t.histories.get(metric)}
    if not histories:
        return None
    values = {seed: scores[-1] for seed, scores in histories.items()}
    swings = {seed: oscillation(scores, HIGHER_IS_BETTER[metric]) for seed, scores in histories.items()}
    known = {seed: swing for seed, swing in swings.items() if swing is not None}
    return {
        "values": values,
        **over_seeds(list(values.values())).row,
        "deviation": deviation(list(values.values())),
        "histories": histories,
        "oscillations": known,
        "oscillation": over_seeds(list(known.values())).row if known else None,
    }


def _early_stopping(cells: Sequence[CellRow], metric: str) -> EarlyStoppingRow | None:
    by_backbone: dict[str, list[Histories]] = {}
    for cell in cells:
        if metric in cell["metrics"]:
            by_backbone.setdefault(cell["backbone"], []).append(cell["metrics"][metric]["histories"])
    return early_stopping(by_backbone, HIGHER_IS_BETTER[metric])


def _rankings(cells: Sequence[CellRow], backbones: Sequence[str], metric: str) -> MetricRankingRow:
    return {
        **_ranking(cells, backbones, metric, "values", HIGHER_IS_BETTER[metric]),
        "oscillation": _ranking(cells, backbones, metric, "oscillations", higher=False),
    }


def _ranking(
    cells: Sequence[CellRow],
    backbones: Sequence[str],
    metric: str,
    by: Literal["values", "oscillations"],
    higher: bool,
) -> RankingRow:
    """Rank arms by `by` on their worst backbone, best first; arms that lack a backbone are not ranked."""
    by_arm: dict[str, dict[str, dict[int, float]]] = {}
    for cell in cells:
        row = cell["metrics"].get(metric)
        if row is not None and row[by]:
            by_arm.setdefault(cell["arm"], {})[cell["backbone"]] = row[by]
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
        "arms": _ranked_arms(whole, sign, draws),
        "not_ranked": [arm for arm in by_arm if arm not in whole],
        "differences": _differences(whole, sign, draws),
    }


def _ranked_arms(cells: Cells, sign: float, draws: Floats | None) -> list[RankedArmRow]:
    rows: list[RankedArmRow] = []
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


def _differences(cells: Cells, sign: float, draws: Floats | None) -> list[DifferenceRow]:
    """Compare every two arms that share a seed on every backbone; of very many arms only the best."""
    rows: list[DifferenceRow] = []
    best = sorted(enumerate(cells), key=lambda each: -sign * _worst(cells[each[1]], sign))[:MAX_COMPARED_ARMS]
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
                **mean_difference(pairs).row,
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
