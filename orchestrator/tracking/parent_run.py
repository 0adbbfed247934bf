"""The parent run's page: all trials in one table and one picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

from orchestrator.config.ranking import NAMES, is_share
from orchestrator.reporting.strength_figures import as_png, map_picture, pictured
from orchestrator.tracking.client import Tracker
from workloads.images import side_by_side

COLUMNS = (
    "trial", "backbone", "interval", "seed", "status", "metric", "score", "score_low",
    "score_high", "teacher_score", "train_seconds",
)  # fmt: skip


def log_comparison(
    tracker: Tracker,
    rows: Sequence[dict[str, Any]],
    sheets: Sequence[bytes],
    strengths: Mapping[str, bytes],
) -> None:
    """Logs `comparison.json` (a table in MLflow), `comparison.png` and, of the given contact
    sheets (PNG), `students.png` to the parent run; of the second search `map.png`,
    `strengths.json` (a table), and `negative_prompts/TRIAL.png`, a sheet of pairs by strength."""
    table = {column: [row.get(column) for row in rows] for column in COLUMNS}
    tracker.log_table(tracker.parent, table, "comparison.json")
    if sheets:
        content = io.BytesIO()
        side_by_side([Image.open(io.BytesIO(sheet)) for sheet in sheets]).save(content, "png")
        tracker.log_file(tracker.parent, content.getvalue(), "students.png")
    for trial, sheet in strengths.items():
        tracker.log_file(tracker.parent, sheet, f"negative_prompts/{trial}.png")
    _log_map(tracker, rows)
    picture = comparison_picture(rows)
    if picture is not None:
        tracker.log_file(tracker.parent, as_png(picture), "comparison.png")


def _log_map(tracker: Tracker, rows: Sequence[dict[str, Any]]) -> None:
    points = [
        {"trial": row["trial"], "backbone": row["backbone"], "interval": row["interval"]}
        | {"guidance": arm["label"], "strength": arm["strength"]}
        | {key: score[key] for key in ("metric", "value", "low", "high", "samples")}
        for row in rows
        for arm in row["curve"]
        for score in arm["scores"]
    ]
    picture = map_picture(rows)
    if picture is None:
        return
    table = {column: [point[column] for point in points] for column in points[0]}
    tracker.log_table(tracker.parent, table, "strengths.json")
    tracker.log_file(tracker.parent, as_png(picture), "map.png")


def comparison_picture(rows: Sequence[dict[str, Any]]) -> "plt.Figure | None":
    """The score that ranks, with its 95 % interval, beside the teacher's: of all trials, of many the best."""
    scored = [row for row in pictured(rows) if row["score"] is not None]
    if not scored:
        return None
    metric = scored[0]["metric"]
    unit = 100 if is_share(metric) else 1
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.45 * len(scored)), layout="constrained")
    for place, row in enumerate(reversed(scored)):
        low, value, high = (unit * row[key] for key in ("score_low", "score", "score_high"))
        # At 0 and 1 rounding can leave an interval's end a hair inside.
        error = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(
            value,
            place,
            xerr=error,
            fmt="o",
            color="tab:blue",
            capsize=3,
            label="student, one network call (95 % interval)" if place == 0 else None,
        )
        axes.plot(
            unit * row["teacher_score"],
            place,
            "|",
            color="tab:orange",
            markersize=16,
            markeredgewidth=2,
            label="its teacher" if place == 0 else None,
        )
    axes.set_yticks(range(len(scored)), [row["trial"] for row in reversed(scored)])
    axes.set_xlabel(f"{NAMES[metric]}{', %' if is_share(metric) else ''}")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
