"""Plots and tables of a sweep's students by guidance scale, beside students of one fixed scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from orchestrator.reporting.html import figure, table
from orchestrator.reporting.rows import ArmRow, TrialRow
from orchestrator.reporting.strength_figures import error_bar
from workloads.scorers.score import Score, find_score

PLOTTED = (
    "attribute_accuracy",
    "frechet_distance",
    "precision",
    "recall",
    "clip_plus",
    "hps_v2.1",
    "hps_v2.0",
)
"""Metrics that are plotted over the scale, if they were measured."""
Points = Mapping[float, Sequence[Score]]
"""Scores by guidance scale."""


def scale_parts(rows: Sequence[TrialRow]) -> list[str]:
    """Return plot and table as HTML; nothing unless a student was drawn at several scales."""
    groups = _groups(rows)
    picture = scale_figure(rows)
    if picture is None:
        return []
    metrics = _metrics(
        [score for points in groups.values() for scores in points.values() for score in scores]
    )
    lines = []
    for (backbone, name), points in groups.items():
        for scale, scores in sorted(points.items()):
            students = sum(score.metric == metrics[0] for score in scores)
            cells = [_mean(scores, metric) for metric in metrics]
            lines.append([backbone, name, f"{scale:g}", str(students), *cells])
    heads = ["backbone", "student", "scale", "students", *(metric.replace("_", " ") for metric in metrics)]
    return [
        "<h2>Students by guidance scale</h2>",
        "<p>Lines: students that read the scale, trained once and drawn at every scale. Crosses: students "
        "of one fixed scale. Means over the students; bars are their range.</p>",
        figure(picture),
        table(heads, lines),
    ]


def scale_figure(rows: Sequence[TrialRow]) -> "plt.Figure | None":
    """Plot each metric over scale, a row for each backbone; None unless a student was drawn at several."""
    groups = _groups(rows)
    metrics = _metrics([score for row in rows for arm in row.curve for score in arm.at_scale])
    backbones = list(dict.fromkeys(row.backbone for row in rows if row.scales))
    if not metrics or not backbones:
        return None
    size = (4.0 * len(metrics), 3.0 * len(backbones))
    made, grid = plt.subplots(len(backbones), len(metrics), figsize=size, layout="constrained", squeeze=False)
    for line, backbone in zip(grid, backbones, strict=True):
        own = {name: points for (of, name), points in groups.items() if of == backbone}
        for axes, metric in zip(line, metrics, strict=True):
            _plot(axes, own, metric)
            axes.set_title(f"{backbone}: {metric.replace('_', ' ')}", fontsize=9)
            axes.set_xlabel("guidance scale")
    grid[0][0].legend(frameon=False, fontsize=8)
    return made


def scale_curve_figure(curve: Sequence[ArmRow], title: str) -> "plt.Figure | None":
    """Plot one student's scores over scale, with 95 % intervals; None unless it was drawn at several."""
    points = {arm.scale: arm.at_scale for arm in curve if arm.scale is not None and arm.at_scale}
    metrics = _metrics([score for scores in points.values() for score in scores])
    if not metrics:
        return None
    size = (4.0 * len(metrics), 3.4)
    made, grid = plt.subplots(1, len(metrics), figsize=size, layout="constrained", squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        found = [(scale, find_score(scores, metric)) for scale, scores in points.items()]
        known = [(scale, score) for scale, score in found if score is not None]
        bars = [error_bar(score.low, score.value, score.high) for _, score in known]
        values = [score.value for _, score in known]
        axes.errorbar(
            [scale for scale, _ in known], values, list(zip(*bars, strict=True)), marker="o", capsize=3
        )
        axes.set_title(metric.replace("_", " "))
        axes.set_xlabel("guidance scale")
        axes.grid(alpha=0.3)
    made.suptitle(title)
    return made


def _groups(rows: Sequence[TrialRow]) -> dict[tuple[str, str], dict[float, list[Score]]]:
    """Return scores by backbone and kind of student, and by scale; fixed scales are one kind."""
    groups: dict[tuple[str, str], dict[float, list[Score]]] = {}
    for row in rows:
        for arm in (arm for arm in row.curve if arm.scale is not None and arm.is_plain):
            assert arm.scale is not None
            group = groups.setdefault((row.backbone, _kind(row)), {})
            group.setdefault(arm.scale, []).extend(arm.at_scale)
        if not row.scales and row.scores and "-" not in row.interval:
            group = groups.setdefault((row.backbone, "fixed scale"), {})
            group.setdefault(float(row.interval), []).extend(row.scores)
    return groups


def _kind(row: TrialRow) -> str:
    """Return what distinguishes students that read the scale."""
    fake_score = "" if row.settings.get("guidance_input") is True else ", its fake score does not"
    guided = " (both guided)" if row.settings.get("guided") == "both" else ""
    return f"reads the scale{guided}{fake_score}"


def _metrics(scores: Sequence[Score]) -> list[str]:
    measured = {score.metric for score in scores}
    return [metric for metric in PLOTTED if metric in measured]


def _values(scores: Sequence[Score], metric: str) -> list[float]:
    return [score.value for score in scores if score.metric == metric]


def _mean(scores: Sequence[Score], metric: str) -> str:
    values = _values(scores, metric)
    return f"{sum(values) / len(values):.3f}" if values else ""


def _plot(axes: Any, groups: Mapping[str, Points], metric: str) -> None:
    for name, points in groups.items():
        known = {scale: _values(scores, metric) for scale, scores in sorted(points.items())}
        known = {scale: values for scale, values in known.items() if values}
        means = [sum(values) / len(values) for values in known.values()]
        bars = [
            error_bar(min(values), mean, max(values))
            for values, mean in zip(known.values(), means, strict=True)
        ]
        style = (
            {"marker": "x", "linestyle": "none", "color": "black"}
            if name == "fixed scale"
            else {"marker": "o"}
        )
        axes.errorbar(list(known), means, list(zip(*bars, strict=True)), capsize=3, label=name, **style)
    axes.grid(alpha=0.3)
