"""The page that a sweep leaves: students beside their teachers, curves over strength, contact sheets."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.ranking import arm_name
from orchestrator.reporting.html import figure, image, table, whole_page
from orchestrator.reporting.strength_figures import (
    MAPPED,
    arm_names,
    curve_picture,
    map_picture,
    mapped_metric,
    measured,
    pictured,
    scale_name,
)
from orchestrator.reporting.study_report import study_parts


def report(
    result: Mapping[str, Any],
    sheets: Mapping[str, bytes],
    strengths: Mapping[str, bytes],
    over_seeds: Mapping[str, Any] | None = None,
) -> str:
    """The page that a sweep leaves; `result` is the content of `summary.json`.

    `sheets` (teacher beside student) and `strengths` (pairs by strength) are PNGs by trial;
    `over_seeds` is the content of `report.json`, if there is more than one seed.
    Every plot's numbers stand with it as a table.
    """
    rows = result["trials"]
    parts = [
        f"<h1>{html.escape(result['name'])}</h1>",
        f"<p>Launch {result['launch']}: {len(rows)} trainings, {result['infer_trials']} strengths tried on "
        f"their students without training, {result['seconds']:.0f} s. Prompts: "
        f"{result['prompts']['used']}. Every interval is a 95 % one.</p>",
        "<h2>Students beside their teachers</h2>",
        table(*_comparison(rows)),
        *(study_parts(over_seeds) if over_seeds is not None else []),
    ]
    if any(row["curve"] for row in rows):
        drawn = pictured(rows)
        which = "Every student" if len(drawn) == len(rows) else "The best students of each backbone"
        parts += [*_map(rows), *_best(rows), f"<h2>{which} over strength</h2>"]
        for row in [row for row in drawn if row["curve"]]:
            parts += _student(row, strengths.get(row["trial"]))
    if sheets:
        parts.append("<h2>Contact sheets</h2><p class='note'>Teacher and student on the same prompts.</p>")
        parts += [image(sheet) for sheet in sheets.values()]
    return whole_page(result["name"], parts)


def _comparison(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    heads = ["trial", "guidance scale", "seed", "status", "train s", "champion"]
    metrics = list(dict.fromkeys(score["metric"] for row in rows for score in row["scores"]))
    lines = []
    for row in rows:
        line = [
            row["trial"],
            scale_name(row["interval"]),
            str(row["seed"]),
            row["status"],
            f"{row['train_seconds']:.0f}",
        ]
        line.append("yes" if row["champion"] else "")
        for metric in metrics:
            line += [_cell(row["scores"], metric), _cell(row["teacher_scores"], metric, interval=False)]
        lines.append(line)
    for metric in metrics:
        heads += [metric.replace("_", " "), "teacher"]
    return heads, lines


def _cell(scores: Sequence[Mapping[str, Any]], metric: str, interval: bool = True) -> str:
    score = next((score for score in scores if score["metric"] == metric), None)
    if score is None:
        return ""
    text = f"{score['value']:.3f}"
    return f"{text} ({score['low']:.3f} to {score['high']:.3f}; n {score['samples']})" if interval else text


def _map(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Backbone by guidance interval by strength."""
    metric, picture = mapped_metric(rows), map_picture(rows)
    if metric is None or picture is None:
        return []
    columns = arm_names(rows)
    lines = []
    for row in (row for row in rows if row["curve"]):
        by_name = {arm_name(arm): arm for arm in row["curve"]}
        cells = [_cell(by_name[name]["scores"], metric, False) if name in by_name else ""
                 for name in columns]  # fmt: skip
        lines.append([row["backbone"], scale_name(row["interval"]), *cells])
    return [
        "<h2>Backbone by guidance interval by strength</h2>",
        f"<p>{metric.replace('_', ' ').capitalize()}: {MAPPED[metric]}.</p>",
        figure(picture),
        table(["backbone", "guidance scale", *columns], lines),
    ]


def _best(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each student's default, and what it was chosen by."""
    metrics = list(dict.fromkeys(name for row in rows if row["best"] for name in measured([row["best"]])))
    lines = [
        [row["trial"], arm_name(row["best"]), *(_cell(row["best"]["scores"], metric) for metric in metrics)]
        for row in rows
        if row["best"]
    ]
    return [
        "<h2>The strength that each student uses by default</h2>",
        "<p>The one that removes most among those that cost no more of what the prompt asks for than the "
        "sweep allows (infer.max_accuracy_loss).</p>",
        table(["student", "best", *(metric.replace("_", " ") for metric in metrics)], lines),
    ]


def _student(row: Mapping[str, Any], sheet: bytes | None) -> list[str]:
    curve = row["curve"]
    metrics = measured(curve)
    numbers = [[arm_name(arm), *(_cell(arm["scores"], metric) for metric in metrics)] for arm in curve]
    pairs = [
        [f"{pair['prompt']}; not: {pair['negative_prompt']}"]
        + [f"{arm['pairs'][place].get('negative_rate', float('nan')):.2f}" for arm in curve]
        for place, pair in enumerate(curve[0]["pairs"])
    ]
    picture = curve_picture(curve, "")
    return [
        f"<h3>{html.escape(row['trial'])}</h3>",
        figure(picture) if picture is not None else "",
        table(["strength", *(metric.replace("_", " ") for metric in metrics)], numbers),
        "<details><summary>How often each pair's negative is shown</summary>",
        table(["pair", *(arm_name(arm) for arm in curve)], pairs),
        "</details>",
        "<p class='note'>A row a pair, a column a strength, always from the same noise.</p>" if sheet else "",
        image(sheet) if sheet else "",
    ]
