"""Plots of a sweep's second search: curves over strength, and the map of guidance interval by strength."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from orchestrator.reporting.rows import ArmRow, TrialRow

METRICS = ("removal_rate", "negative_rate", "prompt_accuracy", "clip_plus", "clip_minus")
"""Metrics that are plotted over strength if they were measured, beside every HPSv2 score."""
MAPPED = {
    "removal_rate": "of the pictures in which the plain student shows what the negative prompt names, "
    "the share in which it is gone",
    "negative_rate": "the share of pictures that show what the negative prompt names",
    "hps_v2.1": "HPSv2.1",
    "hps_v2.0": "HPSv2.0",
    "clip_plus": "CLIP+, the agreement with the prompt",
}
"""Metrics that the map can show, with their meanings; the first that was measured is shown. All lie in
0 to 1."""
DOTS_PER_INCH = 110
MAX_PLOTTED = 40
"""Trials in one plot; matplotlib draws at most 2^16 pixels, and more rows are not legible."""


def plotted_rows(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the rows that plots show: all of them, or the best of each backbone if there are many."""
    if len(rows) <= MAX_PLOTTED:
        return list(rows)
    by_backbone: dict[str, list[TrialRow]] = {}
    for row in sorted(rows, key=lambda row: math.inf if row.score is None else -row.score):
        by_backbone.setdefault(row.backbone, []).append(row)
    share = max(1, MAX_PLOTTED // len(by_backbone))
    chosen = {row.trial for best in by_backbone.values() for row in best[:share]}
    return [row for row in rows if row.trial in chosen]


def as_png(figure: "plt.Figure") -> bytes:
    """Return the figure as a PNG file, and close it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    plt.close(figure)
    return content.getvalue()


def error_bar(low: float, value: float, high: float) -> tuple[float, float]:
    """Return the lengths of an interval below and above `value`.

    Rounding can leave an end of a share's interval slightly inside of 0 or 1, which matplotlib refuses.
    """
    return max(0.0, value - low), max(0.0, high - value)


def curve_figure(curve: Sequence[ArmRow], title: str) -> "plt.Figure | None":
    """Plot each metric over strength, a line for each kernel, with 95 % intervals; None without metrics."""
    measured = dict.fromkeys(metric for arm in curve for metric in arm.metrics)
    metrics = [name for name in measured if name in METRICS or name.startswith("hps_v")]
    labels = list(dict.fromkeys(arm.label for arm in curve if not arm.is_plain))
    if not metrics or not labels:
        return None
    figure, grid = plt.subplots(
        1, len(metrics), figsize=(4.2 * len(metrics), 3.6), layout="constrained", squeeze=False
    )
    for axes, metric in zip(grid[0], metrics, strict=True):
        for label in labels:
            _plot_kernel(axes, [arm for arm in curve if arm.is_plain or arm.label == label], metric, label)
        axes.set_title(metric.replace("_", " "))
        axes.set_xlabel("strength")
        axes.grid(alpha=0.3)
    grid[0][0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def _plot_kernel(axes: Any, arms: Sequence[ArmRow], metric: str, label: str) -> None:
    found = [(arm.strength, arm.score(metric)) for arm in arms]
    points = sorted((strength, s.low, s.value, s.high) for strength, s in found if s is not None)
    bars = [error_bar(low, value, high) for _, low, value, high in points]
    axes.errorbar(
        [point[0] for point in points],
        [point[2] for point in points],
        yerr=list(zip(*bars, strict=True)),
        marker="o",
        capsize=3,
        label=label,
    )


def mapped_metric(rows: Sequence[TrialRow]) -> str | None:
    """Return the metric that the map of these rows shows; None if none of `MAPPED` was measured."""
    found = {name for row in rows for name in row.metrics}
    return next((metric for metric in MAPPED if metric in found), None)


def map_figure(rows: Sequence[TrialRow]) -> "plt.Figure | None":
    """Plot guidance interval by strength: a heat map for each backbone; None without a mapped metric."""
    metric = mapped_metric(rows)
    if metric is None:
        return None
    mapped = [row for row in plotted_rows(rows) if any(arm.score(metric) for arm in row.curve)]
    backbones = list(dict.fromkeys(row.backbone for row in mapped))
    columns = arm_names(mapped)
    heights = [sum(len(row.by_scale) for row in mapped if row.backbone == name) for name in backbones]
    figure, grid = plt.subplots(
        len(backbones),
        1,
        figsize=(2.4 + 0.75 * len(columns), 1.6 + sum(0.55 * height + 0.55 for height in heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, name in zip(grid[:, 0], backbones, strict=True):
        image = _heat_map(axes, [row for row in mapped if row.backbone == name], columns, metric)
        axes.set_title(name, loc="left", fontsize=10)
    grid[-1, 0].set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    figure.colorbar(image, ax=grid[:, 0].tolist(), label=metric.replace("_", " ") + ", %", shrink=0.9)
    return figure


def _heat_map(axes: Any, rows: Sequence[TrialRow], columns: Sequence[str], metric: str) -> Any:
    lines = [line for row in rows for line in row.by_scale]
    values = [[_percent(arms, column, metric) for column in columns] for _, arms in lines]
    share = metric.endswith("_rate")
    limits: dict[str, float] = {"vmin": 0, "vmax": 100} if share else {}
    image = axes.imshow(values, cmap="viridis", aspect="auto", **limits)
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if not math.isnan(value):
                colour = "white" if image.norm(value) < 0.6 else "black"
                text = f"{value:.0f}" if share else f"{value:.2f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
    axes.set_xticks([])
    return image


def arm_names(rows: Sequence[TrialRow]) -> list[str]:
    """Return the names of the arms of all rows, in their order."""
    return list(dict.fromkeys(arm.name for row in rows for arm in row.curve))


def _percent(arms: Sequence[ArmRow], column: str, metric: str) -> float:
    arm = next((arm for arm in arms if arm.name == column), None)
    return math.nan if arm is None else 100 * arm.value(metric, math.nan)
