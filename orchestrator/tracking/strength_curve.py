"""A student's second search in its run: table, plot, contact sheet, metrics over strength."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.reporting.strength_figures import as_png, curve_picture
from orchestrator.tracking.client import Tracker

STEPS = 100
"""MLflow's steps are whole numbers: strength 0.75 is step 75."""
PREFIX = "under_"
"""No slash: MLflow shows what has one before all else, here a dozen charts of few points each before the
training's curves; and by the alphabet these come last."""


def log_curve(
    tracker: Tracker, run: str, curve: Sequence[Mapping[str, Any]], best: Mapping[str, Any], sheet: bytes
) -> None:
    """Logs `strengths.json`, `strengths.png`, `negative_prompts.png`, and metrics under_KERNEL.METRIC."""
    rows = [
        {"guidance": arm["label"], "strength": arm["strength"], **score}
        for arm in curve
        for score in arm["scores"]
    ]
    table = {column: [row[column] for row in rows] for column in rows[0]} if rows else {}
    tracker.log_table(run, table, "strengths.json")
    tracker.log_json(run, [dict(arm) for arm in curve], "curve.json")
    tracker.log_file(run, sheet, "negative_prompts.png")
    for arm in curve:
        metrics = {f"{PREFIX}{arm['label']}.{score['metric']}": score["value"] for score in arm["scores"]}
        tracker.log_metrics(run, round(STEPS * arm["strength"]), metrics)
    tracker.set_tags(run, {"best_guidance": best["label"], "best_strength": f"{best['strength']:g}"})
    picture = curve_picture(curve, "the student by strength of attention guidance")
    if picture is not None:
        tracker.log_file(run, as_png(picture), "strengths.png")
