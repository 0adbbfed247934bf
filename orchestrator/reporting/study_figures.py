"""Plots of a study: each arm's scores over seeds by backbone, and their course along training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from orchestrator.reporting.strength_figures import as_png

MOST_ARMS = 30
"""Arms in a plot; `study_report` passes the best."""
Cells = Mapping[tuple[str, str], Mapping[str, Any]]
"""Measurements of one metric, by arm and backbone."""


def values_png(cells: Cells, arms: Sequence[str], backbones: Sequence[str], metric: str) -> bytes:
    """Plot a panel for each backbone and a line for each arm: a dot for each seed, the mean with its
    interval."""
    figure, grid = _panels(backbones, 1.4 + 0.32 * len(arms))
    for axes, backbone in zip(grid, backbones, strict=True):
        for place, arm in enumerate(arms):
            cell = cells.get((arm, backbone))
            if cell is None:
                continue
            values = list(cell["values"].values())
            axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.3, markersize=4)
            low, high = cell["low"], cell["high"]
            bars = [[cell["value"] - low], [high - cell["value"]]] if low is not None else None
            axes.errorbar(cell["value"], place, xerr=bars, fmt="|", color="black", markersize=10, capsize=3)
        axes.set_title(backbone, fontsize=10)
        axes.set_xlabel(metric.replace("_", " "))
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(alpha=0.3)
    grid[0].set_yticks(range(len(arms)), arms, fontsize=8)
    return as_png(figure)


def course_png(cells: Cells, arms: Sequence[str], backbones: Sequence[str], metric: str) -> bytes | None:
    """Plot the mean over seeds along training, a panel for each backbone; None for single evaluations."""
    if not any(len(looks) > 1 for cell in cells.values() for looks in cell["histories"].values()):
        return None
    figure, grid = _panels(backbones, 4.2)
    colours = plt.get_cmap("tab10" if len(arms) <= 10 else "turbo")
    for axes, backbone in zip(grid, backbones, strict=True):
        for place, arm in enumerate(arms):
            cell = cells.get((arm, backbone))
            if cell is None:
                continue
            # A collapsed training has fewer evaluations than the others.
            shortest = min(map(len, cell["histories"].values()))
            looks = np.array([each[:shortest] for each in cell["histories"].values()])
            colour = colours(place if len(arms) <= 10 else place / len(arms))
            label = arm if axes is grid[0] else None
            axes.plot(range(1, shortest + 1), looks.mean(0), "o-", color=colour, markersize=3, label=label)
        axes.set_title(backbone, fontsize=10)
        axes.set_xlabel("evaluation")
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(metric.replace("_", " "))
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return as_png(figure)


def _panels(backbones: Sequence[str], height: float) -> tuple["plt.Figure", Sequence[Any]]:
    figure, grid = plt.subplots(
        1, len(backbones), figsize=(2.5 + 3.2 * len(backbones), height), layout="constrained",
        sharey=True, squeeze=False,
    )  # fmt: skip
    return figure, list(grid[0])
