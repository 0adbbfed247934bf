"""A student's second search in its MLflow run: table, plot, contact sheet, metrics over strength."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.reporting.rows import ArmRow
from orchestrator.reporting.strength_figures import as_png, curve_figure
from orchestrator.tracking.client import Tracker

STEPS_PER_STRENGTH = 100
"""MLflow's steps are whole numbers: strength 0.75 is step 75."""
PREFIX = "under_"
"""Prefix of these metrics. It has no slash: MLflow puts metrics with one before all others, here a dozen
charts of few points each before the training's curves. In alphabetical order these come last."""


def log_curve(tracker: Tracker, run: str, curve: Sequence[ArmRow], best: ArmRow, sheet: bytes) -> None:
    """Log a student's curve: `strengths.json`, `curve.json`, two pictures, and metrics under_KERNEL.METRIC.

    Args:
        tracker: the launch's record.
        run: the trial's MLflow run.
        curve: the arms, the plain student first.
        best: the arm that the student uses by default.
        sheet: PNG of the pairs by strength.
    """
    rows = [
        {"guidance": arm.label, "strength": arm.strength, **asdict(score)}
        for arm in curve
        for score in arm.scores
    ]
    table = {column: [row[column] for row in rows] for column in rows[0]} if rows else {}
    tracker.log_table(run, table, "strengths.json")
    tracker.log_json(run, [arm.to_json() for arm in curve], "curve.json")
    tracker.log_file(run, sheet, "negative_prompts.png")
    for arm in curve:
        metrics = {f"{PREFIX}{arm.label}.{score.metric}": score.value for score in arm.scores}
        tracker.log_metrics(run, round(STEPS_PER_STRENGTH * arm.strength), metrics)
    tracker.set_tags(run, {"best_guidance": best.label, "best_strength": f"{best.strength:g}"})
    picture = curve_figure(curve, "the student by strength of attention guidance")
    if picture is not None:
        tracker.log_file(run, as_png(picture), "strengths.png")
