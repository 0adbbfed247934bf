"""Quality of students by the time that their training took, as part of a sweep's page.

Steps of different objectives take different times, so their students are compared after equal time as well as
at their ends.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt

from orchestrator.reporting.html import image, table
from orchestrator.reporting.rows import TrialRow
from orchestrator.reporting.strength_figures import as_png

MOST_TRAININGS = 20
"""Trainings of one teacher in a plot."""


def time_parts(rows: Sequence[TrialRow]) -> list[str]:
    """Return plot and table as HTML; nothing unless trainings have several objectives."""
    shown = [row for row in rows if row.metric is not None and row.course]
    if len({row.settings.get("objective") for row in shown}) < 2:
        return []
    groups: dict[str, list[TrialRow]] = {}
    for row in shown:
        groups.setdefault(row.teacher, []).append(row)
    metric = str(shown[0].metric)
    lines = [line for group in groups.values() for line in _lines(group, metric)]
    heads = ["training", "network calls", "seconds", metric.replace("_", " ")]
    return [
        "<h2>Quality by training time</h2>",
        "<p>Seconds in training steps, without start and evaluation, beside whatever else ran there. The "
        "last column is the score after the time of the shortest training of the same teacher, interpolated "
        "between evaluations.</p>",
        image(time_png(groups, metric)) if _fits(groups) else "",
        table([*heads, "after equal time"], lines),
    ]


def _fits(groups: dict[str, list[TrialRow]]) -> bool:
    return all(len(group) <= MOST_TRAININGS for group in groups.values())


def _lines(rows: Sequence[TrialRow], metric: str) -> list[list[str]]:
    shortest = min(row.course[-1]["seconds"] for row in rows)
    return [
        [
            row.trial,
            str(row.student_steps),
            f"{row.course[-1]['seconds']:.0f}",
            f"{row.course[-1][metric]:.3f}",
            "" if (score := score_after(row, metric, shortest)) is None else f"{score:.3f}",
        ]
        for row in rows
    ]


def score_after(row: TrialRow, metric: str, seconds: float) -> float | None:
    """Return the score of a student after `seconds` of its training, interpolated between evaluations.

    None before the first evaluation.
    """
    times, scores = points(row, metric)
    return float(np.interp(seconds, times, scores)) if times and seconds >= times[0] else None


def points(row: TrialRow, metric: str) -> tuple[list[float], list[float]]:
    """Return seconds and score of each evaluation of a training."""
    looks = [look for look in row.course if metric in look]
    return [look["seconds"] for look in looks], [look[metric] for look in looks]


def time_png(groups: dict[str, list[TrialRow]], metric: str) -> bytes:
    """Plot the course of each training over seconds: a panel for each teacher."""
    figure, grid = plt.subplots(
        1, len(groups), figsize=(1 + 5.2 * len(groups), 4.6), layout="constrained", squeeze=False, sharey=True
    )
    for axes, (teacher, rows) in zip(grid[0], groups.items(), strict=True):
        for row in rows:
            axes.plot(*points(row, metric), "o-", markersize=3, label=row.backbone)
        axes.set_title(teacher, fontsize=10)
        axes.set_xlabel("seconds of training")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    grid[0][0].set_ylabel(metric.replace("_", " "))
    return as_png(figure)
