"""Stable region of each arm over two swept settings, usually learning rates.

A training fails if it collapsed, or if its last accuracy is below `LEAST_ACCURACY`. The area of an arm's
stable region is the share of its trainings that do not fail, each combination of the two settings and each
backbone counted equally.
"""

import math
from collections.abc import Mapping, Sequence

from orchestrator.analysis.rows import AreaRow, RegionCellRow, StabilityRow
from orchestrator.analysis.statistics import over_seeds
from orchestrator.analysis.training import Training

LEAST_ACCURACY = 0.8
METRICS = ("attribute_accuracy", "prompt_accuracy")
"""Accuracies that decide a failure: the first that a training has measured."""
DEFINITION = (
    f"A training fails if it collapses or ends below {100 * LEAST_ACCURACY:.0f} % accuracy. Area: share of "
    "the trainings that do not fail, settings and backbones counted equally; mean over seeds, with Student's "
    "t 95 % interval, which takes neither settings nor backbones for a sample."
)


def stability(trainings: Sequence[Training]) -> StabilityRow | None:
    """Return the stable regions; None unless the sweep has arms and exactly two settings inside them.

    Both settings must be numbers, and the trainings must have measured an accuracy.
    """
    axes = _axes(trainings)
    if len(axes) != 2 or not any(_accuracy(each) is not None for each in trainings):
        return None
    groups: dict[tuple[str, str, float, float], list[Training]] = {}
    for each in trainings:
        first, second = (float(each.settings[axis]) for axis in axes)
        groups.setdefault((each.settings["arm"], each.backbone, first, second), []).append(each)
    arms = list(dict.fromkeys(arm for arm, *_ in groups))
    places = len({key[1:] for key in groups})
    return {
        "settings": axes,
        "cells": [_cell(arm, backbone, [x, y], own) for (arm, backbone, x, y), own in sorted(groups.items())],
        "areas": [area for arm in arms if (area := _area(arm, trainings, places))],
    }


def _axes(trainings: Sequence[Training]) -> list[str]:
    """Return the numeric settings that vary within an arm on a backbone, if every training names an arm."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for each in trainings:
        groups.setdefault((each.settings.get("arm", ""), each.backbone), []).append(each.settings)
    if any(not arm for arm, _ in groups):
        return []
    keys = dict.fromkeys(key for each in trainings for key in each.settings if key != "seed")
    varied = [k for k in keys if any(len({s.get(k) for s in own}) > 1 for own in groups.values())]
    return varied if all(_numeric(each.settings.get(key)) for each in trainings for key in varied) else []


def _numeric(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _area(arm: str, trainings: Sequence[Training], places: int) -> AreaRow | None:
    by_seed: dict[int, list[float]] = {}
    for each in trainings:
        if each.settings["arm"] == arm:
            by_seed.setdefault(each.seed, []).append(float(not failed(each)))
    if any(len(outcomes) != places for outcomes in by_seed.values()):
        return None
    row = over_seeds([sum(outcomes) / places for outcomes in by_seed.values()]).row
    return {"arm": arm, **row}


def _cell(arm: str, backbone: str, values: list[float], trainings: Sequence[Training]) -> RegionCellRow:
    measured = (_accuracy(each) for each in trainings)
    known = [value for value in measured if value is not None and math.isfinite(value)]
    return {
        "arm": arm,
        "backbone": backbone,
        "values": values,
        "trainings": len(trainings),
        "failed": sum(map(failed, trainings)),
        "accuracy": sum(known) / len(known) if known else None,
    }


def failed(training: Training) -> bool:
    """Return True unless a training that ended has a last accuracy of at least `LEAST_ACCURACY`.

    An accuracy that is missing or not a number, as of pictures that are not finite, is a failure too.
    """
    accuracy = _accuracy(training)
    return training.status == "collapsed" or accuracy is None or not accuracy >= LEAST_ACCURACY


def _accuracy(training: Training) -> float | None:
    for metric in METRICS:
        if training.histories.get(metric):
            return training.histories[metric][-1]
    return None
