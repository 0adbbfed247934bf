"""The parent run's artifacts: all trials in one table and one plot, their sheets, the map of strengths."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

from orchestrator.reporting.formatting import NAMES, describe_arm, format_value, is_share
from orchestrator.reporting.rows import SweepSummary, TrialRow
from orchestrator.reporting.strength_figures import as_png, error_bar, map_figure, plotted_rows
from orchestrator.tracking.client import Tracker
from workloads.images import side_by_side

COLUMNS = (
    "trial", "backbone", "interval", "seed", "status", "metric", "score", "score_low",
    "score_high", "teacher_score", "train_seconds", "student_steps", "seconds_per_picture",
)  # fmt: skip


DESCRIPTION_TAG = "mlflow.note.content"
"""MLflow's tag of a run's description, in Markdown."""
MAX_DESCRIPTION_ROWS = 30
"""Trials in the description; MLflow limits a tag to 8,000 characters."""


def describe_sweep(tracker: Tracker, summary: SweepSummary, place: str) -> None:
    """Give the parent run a description: the table of trials, and where report and students are."""
    tracker.set_tags(tracker.parent, {DESCRIPTION_TAG: sweep_description(summary, place)})


def sweep_description(summary: SweepSummary, place: str) -> str:
    """Return the parent run's description in Markdown.

    Args:
        summary: the sweep's results.
        place: URI of the sweep's folder in the storage.
    """
    rows = plotted_rows(summary.trials)[:MAX_DESCRIPTION_ROWS]
    metric = next((NAMES[row.metric] for row in rows if row.metric), "score")
    students = list(dict.fromkeys(row.model.rpartition("/")[0] for row in rows if row.champion))
    lines = [
        f"{len(summary.trials)} trials, {summary.strengths} strengths of attention guidance.",
        "",
        f"| trial | status | {metric} | teacher | default strength | student |",
        "|---|---|---|---|---|---|",
        *(_description_row(row) for row in rows),
        "",
        f"Report: artifact `report.html` of this run, and `{place}/report.html`.",
        f"Champions: {', '.join(f'`{name}@champion`' for name in students) or 'none'}.",
    ]
    if len(rows) < len(summary.trials):
        lines.insert(1, f"The {len(rows)} best are listed; `comparison.json` has all.")
    return "\n".join(lines)


def _description_row(row: TrialRow) -> str:
    score, teacher = (
        "" if value is None or row.metric is None else format_value(row.metric, value)
        for value in (row.score, row.teacher_score)
    )
    best = describe_arm(row.best) if row.best else ""
    cells = (row.trial, row.status, score, teacher, best, row.model)
    return f"| {' | '.join(cells)} |"


def log_comparison(
    tracker: Tracker, rows: Sequence[TrialRow], sheets: Sequence[bytes], strengths: Mapping[str, bytes]
) -> None:
    """Log the sweep's results to the parent run.

    Args:
        tracker: the launch's record.
        rows: all trials; logged as the table `comparison.json` and the plots `comparison.png` and `map.png`
            (with `strengths.json`, its table).
        sheets: PNGs of contact sheets, joined as `students.png`.
        strengths: PNGs of pairs by strength, by trial; logged as `negative_prompts/TRIAL.png`.
    """
    table = {column: [getattr(row, column) for row in rows] for column in COLUMNS}
    tracker.log_table(tracker.parent, table, "comparison.json")
    if sheets:
        content = io.BytesIO()
        side_by_side([Image.open(io.BytesIO(sheet)) for sheet in sheets]).save(content, "png")
        tracker.log_file(tracker.parent, content.getvalue(), "students.png")
    for trial, sheet in strengths.items():
        tracker.log_file(tracker.parent, sheet, f"negative_prompts/{trial}.png")
    _log_map(tracker, rows)
    picture = comparison_figure(rows)
    if picture is not None:
        tracker.log_file(tracker.parent, as_png(picture), "comparison.png")


def _log_map(tracker: Tracker, rows: Sequence[TrialRow]) -> None:
    picture = map_figure(rows)
    if picture is None:
        return
    points = [
        {"trial": row.trial, "backbone": row.backbone, "interval": row.interval}
        | {"guidance": arm.label, "strength": arm.strength}
        | {key: value for key, value in asdict(score).items() if key != "protocol"}
        for row in rows
        for arm in row.curve
        for score in arm.scores
    ]
    table = {column: [point[column] for point in points] for column in points[0]}
    tracker.log_table(tracker.parent, table, "strengths.json")
    tracker.log_file(tracker.parent, as_png(picture), "map.png")


def comparison_figure(rows: Sequence[TrialRow]) -> "plt.Figure | None":
    """Plot the ranking score of each trial, with its 95 % interval, beside its teacher's; None without
    scores."""
    scored = [row for row in plotted_rows(rows) if row.score is not None]
    if not scored:
        return None
    metric = scored[0].metric or ""
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.45 * len(scored)), layout="constrained")
    for place, row in enumerate(reversed(scored)):
        _plot_trial(axes, place, row, 100 if is_share(metric) else 1)
    axes.set_yticks(range(len(scored)), [row.trial for row in reversed(scored)])
    axes.set_xlabel(f"{NAMES[metric]}{', %' if is_share(metric) else ''}")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _plot_trial(axes: Any, place: int, row: TrialRow, unit: float) -> None:
    low, value, high, teacher = (
        unit * (each or 0.0) for each in (row.score_low, row.score, row.score_high, row.teacher_score)
    )
    labels = ("student (95 % interval)", "its teacher") if place == 0 else (None, None)
    bar = [[length] for length in error_bar(low, value, high)]
    axes.errorbar(value, place, xerr=bar, fmt="o", color="tab:blue", capsize=3, label=labels[0])
    style = {"color": "tab:orange", "markersize": 16, "markeredgewidth": 2}
    axes.plot(teacher, place, "|", label=labels[1], **style)
