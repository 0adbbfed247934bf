"""A student's second search in its MLflow run: tables, plots, sheets, metrics over scale and strength."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.reporting.rows import ArmRow
from orchestrator.reporting.scale_figures import scale_curve_figure
from orchestrator.reporting.strength_figures import as_png, curve_figure
from orchestrator.tracking.client import Tracker

STEPS_PER_STRENGTH = 100
"""MLflow's steps are whole numbers: strength or scale 0.75 is step 75."""
PREFIX = "under_"
"""Prefix of these metrics. It has no slash: MLflow puts metrics with one before all others, here a dozen
charts of few points each before the training's curves. In alphabetical order these come last."""


def log_curve(
    tracker: Tracker, run: str, curve: Sequence[ArmRow], best: ArmRow, sheets: Mapping[str, bytes]
) -> None:
    """Log a student's curve: `strengths.json`, `curve.json`, pictures, metrics under_KERNEL.METRIC and
    under_scale.METRIC. Strengths are those at the student's default scale.

    Args:
        tracker: the launch's record.
        run: the trial's MLflow run.
        curve: the arms, the plain student first.
        best: the arm that the student uses by default.
        sheets: PNGs of pairs by strength and of prompts by scale, by file name; empty ones are left out.
    """
    rows = [
        {"scale": arm.scale, "guidance": arm.label, "strength": arm.strength, **asdict(score)}
        for arm in curve
        for score in (*arm.scores, *arm.at_scale)
    ]
    table = {column: [row[column] for row in rows] for column in rows[0]} if rows else {}
    tracker.log_table(run, table, "strengths.json")
    tracker.log_json(run, [arm.to_json() for arm in curve], "curve.json")
    for name, sheet in sheets.items():
        if sheet:
            tracker.log_file(run, sheet, name)
    for arm in curve:
        if arm.scale is not None:
            at_scale = {f"{PREFIX}scale.{score.metric}": score.value for score in arm.at_scale}
            tracker.log_metrics(run, round(STEPS_PER_STRENGTH * arm.scale), at_scale)
    for arm in (arm for arm in curve if arm.scale == best.scale):
        metrics = {f"{PREFIX}{arm.label}.{score.metric}": score.value for score in arm.scores}
        tracker.log_metrics(run, round(STEPS_PER_STRENGTH * arm.strength), metrics)
    tags = {"best_guidance": best.label, "best_strength": f"{best.strength:g}"}
    tracker.set_tags(run, tags if best.scale is None else {**tags, "best_scale": f"{best.scale:g}"})
    own = [arm for arm in curve if arm.scale == best.scale]
    picture = curve_figure(own, "the student by strength of attention guidance")
    if picture is not None:
        tracker.log_file(run, as_png(picture), "strengths.png")
    picture = scale_curve_figure(curve, "the student by guidance scale")
    if picture is not None:
        tracker.log_file(run, as_png(picture), "scales.png")
