"""A sweep's report: one HTML file that opens without a network, pictures inside.

Every plot's numbers stand below it as a table. `report` sees what `summary.json` holds and the
contact sheets, nothing else.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt

from orchestrator.plots import (
    MAPPED,
    arm_name,
    arm_names,
    curve_picture,
    map_picture,
    mapped_metric,
    measured,
    scale_name,
)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 13px; margin: .7rem 0 }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } th { background: #f6f6f6 }
img { max-width: 100%; height: auto } .scroll { overflow-x: auto } .note { color: #666 }
details { margin: .5rem 0 } summary { cursor: pointer; color: #35c }
"""


def report(result: Mapping[str, Any], sheets: Mapping[str, bytes], strengths: Mapping[str, bytes]) -> str:
    """The page; `result` is the content of `summary.json`.

    `sheets` (teacher beside student) and `strengths` (pairs by strength) are PNGs by trial.
    """
    rows = result["trials"]
    parts = [
        f"<h1>{html.escape(result['name'])}</h1>",
        f"<p>Launch {result['launch']}: {len(rows)} trainings, {result['infer_trials']} strengths tried on "
        f"their students without training, {result['seconds']:.0f} s. Prompts: "
        f"{result['prompts']['used']}. Every interval is a 95 % one.</p>",
        "<h2>Students beside their teachers</h2>",
        _table(*_comparison(rows)),
    ]
    if any(row["curve"] for row in rows):
        parts += [*_map(rows), *_best(rows), "<h2>Every student over strength</h2>"]
        for row in [row for row in rows if row["curve"]]:
            parts += _student(row, strengths.get(row["trial"]))
    if sheets:
        parts.append("<h2>Contact sheets</h2><p class='note'>Teacher and student on the same prompts.</p>")
        parts += [_image(sheet) for sheet in sheets.values()]
    title = html.escape(result["name"])
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>" + (
        "\n".join(parts) + "</body></html>\n"
    )


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
    for row in rows:
        by_name = {arm_name(arm): arm for arm in row["curve"]}
        cells = [_cell(by_name[name]["scores"], metric, False) if name in by_name else ""
                 for name in columns]  # fmt: skip
        lines.append([row["backbone"], scale_name(row["interval"]), *cells])
    return [
        "<h2>Backbone by guidance interval by strength</h2>",
        f"<p>{metric.replace('_', ' ').capitalize()}: {MAPPED[metric]}.</p>",
        _figure(picture),
        _table(["backbone", "guidance scale", *columns], lines),
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
        "sweep allows (infer.most_lost).</p>",
        _table(["student", "best", *(metric.replace("_", " ") for metric in metrics)], lines),
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
        _figure(picture) if picture is not None else "",
        _table(["strength", *(metric.replace("_", " ") for metric in metrics)], numbers),
        "<details><summary>How often each pair's negative is shown</summary>",
        _table(["pair", *(arm_name(arm) for arm in curve)], pairs),
        "</details>",
        "<p class='note'>A row a pair, a column a strength, always from the same noise.</p>" if sheet else "",
        _image(sheet) if sheet else "",
    ]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in line) + "</tr>" for line in lines
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(picture: "plt.Figure") -> str:
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=110)
    plt.close(picture)
    return _image(content.getvalue())


def _image(png: bytes) -> str:
    return f"<p><img src='data:image/png;base64,{base64.b64encode(png).decode()}' alt=''></p>"
