"""The page `report.html` of a sweep: students beside their teachers, curves over strength, sheets.

Every plot's numbers stand beside it as a table, and the file needs no network.
"""

import html
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from orchestrator.reporting.html import figure, image, table, whole_page
from orchestrator.reporting.rows import ArmRow, SweepSummary, TrialRow, scale_name
from orchestrator.reporting.scale_figures import scale_parts
from orchestrator.reporting.steps_table import steps_parts
from orchestrator.reporting.strength_figures import (
    MAPPED,
    arm_names,
    curve_figure,
    map_figure,
    mapped_metric,
    plotted_rows,
)
from orchestrator.reporting.study_report import study_parts
from orchestrator.reporting.training_time import time_parts
from workloads.scorers.score import Score, find_score


def sweep_report(
    summary: SweepSummary,
    sheets: Mapping[str, bytes],
    strengths: Mapping[str, bytes],
    scales: Mapping[str, bytes] = MappingProxyType({}),
    over_seeds: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a sweep.

    Args:
        summary: the sweep's results.
        sheets: PNGs of teacher beside student, by trial.
        strengths: PNGs of pairs by strength, by trial.
        scales: PNGs of prompts by guidance scale, by trial.
        over_seeds: the content of `report.json`, if the sweep has more than one seed.
    """
    rows = summary.trials
    parts = [
        f"<h1>{html.escape(summary.name)}</h1>",
        f"<p>Launch {summary.launch}: {len(rows)} trainings, {summary.strengths} strengths tried on "
        f"their students without training, {summary.seconds:.0f} s. Prompts: "
        f"{summary.prompts['used']}. All intervals are 95 % confidence intervals.</p>",
        "<h2>Students beside their teachers</h2>",
        table(*_comparison(rows)),
        *steps_parts(rows),
        *time_parts(rows),
        *scale_parts(rows),
        *(image(sheet) for sheet in scales.values()),
        *(study_parts(over_seeds) if over_seeds is not None else []),
    ]
    if any(arm.pairs for row in rows for arm in row.curve):
        shown = plotted_rows(rows)
        which = "Every student" if len(shown) == len(rows) else "The best students of each backbone"
        parts += [*_map(rows), *_best(rows), f"<h2>{which} over strength</h2>"]
        for row in (row for row in shown if row.curve):
            parts += _student(row, strengths.get(row.trial))
    if sheets:
        parts.append("<h2>Contact sheets</h2><p class='note'>Teacher and student on the same prompts.</p>")
        parts += [image(sheet) for sheet in sheets.values()]
    return whole_page(summary.name, parts)


def _comparison(rows: Sequence[TrialRow]) -> tuple[list[str], list[list[str]]]:
    heads = ["trial", "guidance scale", "seed", "status", "train s", "champion"]
    metrics = list(dict.fromkeys(score.metric for row in rows for score in row.scores))
    heads += [head for metric in metrics for head in (metric.replace("_", " "), "teacher")]
    return heads, [_trial_cells(row, metrics) for row in rows]


def _trial_cells(row: TrialRow, metrics: Sequence[str]) -> list[str]:
    cells = [row.trial, scale_name(row.interval), str(row.seed), row.status, f"{row.train_seconds:.0f}"]
    cells.append("yes" if row.champion else "")
    for metric in metrics:
        cells += [_cell(row.scores, metric), _cell(row.teacher_scores, metric, interval=False)]
    return cells


def _cell(scores: Sequence[Score], metric: str, interval: bool = True) -> str:
    score = find_score(scores, metric)
    if score is None:
        return ""
    text = f"{score.value:.3f}"
    return f"{text} ({score.low:.3f} to {score.high:.3f}; n {score.samples})" if interval else text


def _map(rows: Sequence[TrialRow]) -> list[str]:
    metric, picture = mapped_metric(rows), map_figure(rows)
    if metric is None or picture is None:
        return []
    columns = arm_names(rows)
    lines = []
    for row in (row for row in rows if row.curve):
        for scale, arms in row.by_scale:
            scores = {arm.name: arm.scores for arm in arms}
            cells = [_cell(scores.get(name, ()), metric, interval=False) for name in columns]
            lines.append([row.backbone, scale, *cells])
    return [
        "<h2>Backbone by guidance scale by strength</h2>",
        f"<p>{metric.replace('_', ' ').capitalize()}: {MAPPED[metric]}.</p>",
        figure(picture),
        table(["backbone", "guidance scale", *columns], lines),
    ]


def _best(rows: Sequence[TrialRow]) -> list[str]:
    best = [(row.trial, row.best) for row in rows if row.best is not None]
    metrics = list(dict.fromkeys(metric for _, arm in best for metric in arm.metrics))
    lines = [[trial, arm.name, *(_cell(arm.scores, metric) for metric in metrics)] for trial, arm in best]
    return [
        "<h2>The strength that each student uses by default</h2>",
        "<p>Of the strengths that cost at most the allowed part of what the prompts ask for "
        "(infer.max_accuracy_loss), the one that removes most.</p>",
        table(["student", "best", *(metric.replace("_", " ") for metric in metrics)], lines),
    ]


def _student(row: TrialRow, sheet: bytes | None) -> list[str]:
    scale = row.best.scale if row.best else None
    curve = [arm for arm in row.curve if arm.scale == scale]
    numbers = [[arm.name, *(_cell(arm.scores, metric) for metric in row.metrics)] for arm in curve]
    picture = curve_figure(curve, "" if scale is None else f"at guidance scale {scale:g}")
    caption = "<p class='note'>A row for each pair, a column for each strength, from the same noise.</p>"
    return [
        f"<h3>{html.escape(row.trial)}</h3>",
        figure(picture) if picture is not None else "",
        table(["strength", *(metric.replace("_", " ") for metric in row.metrics)], numbers),
        "<details><summary>Rate at which each pair's negative prompt shows</summary>",
        table(["pair", *(arm.name for arm in curve)], _pair_lines(curve)),
        "</details>",
        f"{caption}{image(sheet)}" if sheet else "",
    ]


def _pair_lines(curve: Sequence[ArmRow]) -> list[list[str]]:
    lines = []
    for place, pair in enumerate(curve[0].pairs):
        rates = [arm.pairs[place].negative_rate for arm in curve]
        cells = ["nan" if rate is None else f"{rate:.2f}" for rate in rates]
        lines.append([f"{pair.prompt}; not: {pair.negative_prompt}", *cells])
    return lines
