"""Plots of a sweep's second search: curves over strength, and the map of interval by strength."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from orchestrator.config.ranking import arm_name

METRICS = ("removal_rate", "negative_rate", "prompt_accuracy", "clip_plus", "clip_minus")
"""Drawn over strength, of those that were measured, and any HPSv2."""
MAPPED = {
    "removal_rate": "of the pictures in which the plain student shows what the negative prompt names, "
    "the share in which it is gone",
    "negative_rate": "the share of pictures that show what the negative prompt names",
    "hps_v2.1": "HPSv2.1",
    "hps_v2.0": "HPSv2.0",
    "clip_plus": "CLIP+, the agreement with the prompt",
}
"""What the map can show, the first that was measured, with its meaning; all between 0 and 1."""

DOTS_PER_INCH = 110
PICTURED = 40
"""Trials in a picture: of a thousand nobody could read it, and matplotlib draws no more than 2^16 pixels."""
Row = Mapping[str, Any]
"""An arm of a curve, as `curve.Arm.as_row` gives it."""


def pictured(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the comparison that are drawn: all, or of many the best of each backbone."""
    if len(rows) <= PICTURED:
        return list(rows)
    own: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: math.inf if row["score"] is None else -row["score"]):
        own.setdefault(row["backbone"], []).append(row)
    share = max(1, PICTURED // len(own))
    chosen = {row["trial"] for best in own.values() for row in best[:share]}
    return [row for row in rows if row["trial"] in chosen]


def as_png(picture: "plt.Figure") -> bytes:
    """The picture as a file; it is closed."""
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=DOTS_PER_INCH)
    plt.close(picture)
    return content.getvalue()


def curve_picture(curve: Sequence[Row], title: str) -> "plt.Figure | None":
    """Each metric over strength, a line a kernel, from the plain student at 0; 95 % intervals."""
    metrics = [name for name in measured(curve) if name in METRICS or name.startswith("hps_v")]
    labels = list(dict.fromkeys(arm["label"] for arm in curve if arm["kind"] != "none"))
    if not metrics or not labels:
        return None
    figure, grid = plt.subplots(
        1, len(metrics), figsize=(4.2 * len(metrics), 3.6), layout="constrained", squeeze=False
    )
    for axes, metric in zip(grid[0], metrics, strict=True):
        for label in labels:
            points = [
                (arm["strength"], find(arm, metric)) for arm in curve if arm["label"] in ("none", label)
            ]
            known = sorted((strength, score) for strength, score in points if score is not None)
            values = [score["value"] for _, score in known]
            # At 0 and 1 rounding can leave an interval's end a hair inside.
            low = [max(0.0, score["value"] - score["low"]) for _, score in known]
            high = [max(0.0, score["high"] - score["value"]) for _, score in known]
            strengths = [strength for strength, _ in known]
            axes.errorbar(strengths, values, yerr=[low, high], marker="o", capsize=3, label=label)
        axes.set_title(metric.replace("_", " "))
        axes.set_xlabel("strength")
        axes.grid(alpha=0.3)
    grid[0][0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def mapped_metric(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What the map of these rows of the comparison shows; None if nothing was measured for it."""
    found = {name for row in rows for name in measured(row["curve"])}
    return next((metric for metric in MAPPED if metric in found), None)


def map_picture(rows: Sequence[Mapping[str, Any]]) -> "plt.Figure | None":
    """Backbone by guidance interval by strength: a heat map a backbone, a column an arm.

    `rows` are those of the comparison, each with its `curve`; of many the best are drawn.
    """
    metric = mapped_metric(rows)
    if metric is None:
        return None
    mapped = [row for row in pictured(rows) if any(find(arm, metric) for arm in row["curve"])]
    backbones = list(dict.fromkeys(row["backbone"] for row in mapped))
    columns = arm_names(mapped)
    heights = [sum(row["backbone"] == name for row in mapped) for name in backbones]
    figure, grid = plt.subplots(
        len(backbones),
        1,
        figsize=(2.4 + 0.75 * len(columns), 1.6 + sum(0.55 * height + 0.55 for height in heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, name in zip(grid[:, 0], backbones, strict=True):
        own = [row for row in mapped if row["backbone"] == name]
        image = _heat(axes, own, columns, metric)
        axes.set_title(name, loc="left", fontsize=10)
    grid[-1, 0].set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    figure.colorbar(image, ax=grid[:, 0].tolist(), label=metric.replace("_", " ") + ", %", shrink=0.9)
    return figure


def _heat(axes: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], metric: str) -> Any:
    values = [[_percent(row, column, metric) for column in columns] for row in rows]
    share = metric.endswith("_rate")
    image = axes.imshow(
        values, vmin=0 if share else None, vmax=100 if share else None, cmap="viridis", aspect="auto"
    )
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == value:
                colour = "white" if image.norm(value) < 0.6 else "black"
                axes.text(
                    x,
                    y,
                    f"{value:.0f}" if share else f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=colour,
                )
    axes.set_yticks(range(len(rows)), [scale_name(row["interval"]) for row in rows], fontsize=8)
    axes.set_xticks([])
    return image


def scale_name(interval: str) -> str:
    """A guidance scale as papers write it: U(1, 5), or 3."""
    low, dash, high = interval.partition("-")
    return f"U({low}, {high})" if dash else low


def arm_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms of all rows, in their order."""
    return list(dict.fromkeys(arm_name(arm) for row in rows for arm in row["curve"]))


def find(arm: Row, metric: str) -> Mapping[str, Any] | None:
    """The score of that name, if the arm has it."""
    return next((score for score in arm["scores"] if score["metric"] == metric), None)


def measured(curve: Sequence[Row]) -> list[str]:
    """The names of all metrics of a curve, in their order."""
    return list(dict.fromkeys(score["metric"] for arm in curve for score in arm["scores"]))


def _percent(row: Mapping[str, Any], column: str, metric: str) -> float:
    arm = next((arm for arm in row["curve"] if arm_name(arm) == column), None)
    score = find(arm, metric) if arm is not None else None
    return 100 * float(score["value"]) if score is not None else float("nan")
