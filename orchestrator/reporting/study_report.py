"""The study over seeds as part of a page: plots, tables, and a definition of each number."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.reporting.html import image, table
from orchestrator.reporting.stability_map import stability_parts
from orchestrator.reporting.study_figures import MOST_ARMS, course_png, values_png

Row = Mapping[str, Any]


def study_parts(study: Row) -> list[str]:
    """Return the study as HTML; `study` is the content of `report.json`."""
    arms = [arm["arm"] for arm in study["arms"]]
    statuses = ", ".join(f"{count} {status}" for status, count in study["status"].items())
    what = [
        [arm["arm"], *(f"{key} {value}" for key, value in arm["settings"].items())] for arm in study["arms"]
    ]
    parts = [
        "<h2>Arms over seeds</h2>",
        f"<p>{study['trainings']} trainings ({html.escape(statuses)}): {len(arms)} arms on "
        f"{len(study['backbones'])} backbones. Those that ended are compared, by their last score.</p>",
        *_one_seed(study),
        "<details><summary>Each arm's settings, of those that were varied</summary>",
        table(["arm", ""], [[line[0], ", ".join(line[1:])] for line in what]),
        "</details>",
    ]
    for metric, ranking in study["rankings"].items():
        parts += _metric(study, metric, ranking)
    parts += _collapses(study, arms) + stability_parts(study.get("stability"))
    meanings = [[key.replace("_", " "), text] for key, text in study["definitions"].items()]
    return [
        *parts,
        "<h2>Definitions</h2>",
        *(f"<p><b>{k}</b>: {html.escape(t)}</p>" for k, t in meanings),
    ]


def _one_seed(study: Row) -> list[str]:
    if all(cell["ended"] < 2 for cell in study["cells"]):
        return ["<p><b>One seed of every arm: their spread is unknown, so there are no intervals.</b></p>"]
    return []


def _metric(study: Row, metric: str, ranking: Row) -> list[str]:
    name = metric.replace("_", " ")
    cells = {
        (c["arm"], c["backbone"]): c["metrics"][metric] for c in study["cells"] if metric in c["metrics"]
    }
    arms = [row["arm"] for row in ranking["arms"]] + ranking["not_ranked"]
    shown, backbones = arms[:MOST_ARMS], ranking["backbones"]
    course = course_png(cells, shown, backbones, metric)
    parts = [
        f"<h2>{html.escape(name.capitalize())}, {ranking['better']} is better</h2>",
        image(values_png(cells, shown, backbones, metric)),
        "<p class='note'>A dot a seed; the bar is their mean with its 95 % interval.</p>",
        _ranking(ranking),
        "<h3>Mean over seeds (95 % interval; deviation between seeds; seeds)</h3>",
        table(["arm", *backbones], [[a, *(_mean(cells.get((a, b))) for b in backbones)] for a in arms]),
    ]
    parts += _differences(ranking)
    if course is not None:
        parts += ["<h3>Along training</h3>", image(course)]
    if any(cell["oscillation"] for cell in cells.values()):
        lines = [[a, *(_swing(cells.get((a, b))) for b in backbones)] for a in arms]
        parts += [
            "<h3>Oscillation: mean worsening between evaluations</h3>",
            _ranking(ranking["oscillation"]),
            table(["arm", *backbones], lines),
            *_differences(ranking["oscillation"]),
        ]
    return parts + _early(study["early"].get(metric))


def _early(early: Row | None) -> list[str]:
    """Return the prediction by early evaluations, and cost and loss of halving by them."""
    if early is None:
        return []
    looks = early["looks"]
    foretold = [
        [f"{each['look']} of {looks}", *(_with_interval(each[of]) for of in ("arms", "trainings"))]
        for each in early["foretold"]
    ]
    halving = [
        [
            f"{each['look']} of {looks}",
            f"1 in {each['one_in']}",
            f"{100 * each['cost']:.0f} %",
            _with_interval(each["loss"]),
        ]
        for each in early["halving"]
    ]
    return [
        "<h3>Prediction of the end: rank correlation of an early evaluation with the last</h3>",
        table(["evaluation", "of arms", "of trainings"], foretold),
        "<details><summary>Halving by an early evaluation: cost and loss</summary>",
        table(["evaluation", "continue", "cost", "loss"], halving),
        "</details>",
    ]


def _ranking(ranking: Row) -> str:
    heads = [
        "rank",
        "arm",
        "worst backbone",
        "its mean",
        "95 % interval",
        "probability of best",
        "rank, 95 %",
    ]
    lines = [
        [
            str(place), row["arm"], row["worst_backbone"], _number(row["worst"]), _interval(row),
            "" if row["best_probability"] is None else f"{row['best_probability']:.2f}",
            "" if row["rank_low"] is None else f"{row['rank_low']:.0f} to {row['rank_high']:.0f}",
        ]
        for place, row in enumerate(ranking["arms"], 1)
    ]  # fmt: skip
    lines += [["", arm, "not on every backbone", *[""] * 4] for arm in ranking["not_ranked"]]
    return table(heads, lines)


def _differences(ranking: Row) -> list[str]:
    heads = [
        "first arm less second",
        "",
        "mean",
        "95 % interval",
        "p",
        "worst backbone",
        "95 % interval",
        "pairs",
    ]
    lines = [
        [
            row["first"], row["second"], _number(row["value"], True), _interval(row),
            "" if row["p"] is None else f"{row['p']:.3g}", _number(row["worst"], True),
            _interval({"low": row["worst_low"], "high": row["worst_high"]}), str(row["pairs"]),
        ]
        for row in ranking["differences"]
    ]  # fmt: skip
    if not lines:
        return []
    return [
        "<details><summary>Differences of every two arms</summary>",
        table(heads, lines),
        "</details>",
    ]


def _collapses(study: Row, arms: Sequence[str]) -> list[str]:
    cells = {(cell["arm"], cell["backbone"]): cell for cell in study["cells"]}
    lines = []
    for arm in arms:
        own = [cells.get((arm, backbone)) for backbone in study["backbones"]]
        whole = next(each for each in study["arms"] if each["arm"] == arm)
        lines.append([arm, *(_rate(cell) if cell and cell["ended"] else "" for cell in [*own, whole])])
    return ["<h2>Collapses</h2>", table(["arm", *study["backbones"], "all"], lines)]


def _rate(cell: Row) -> str:
    rate = cell["collapse_rate"]
    return f"{cell['collapsed']} of {cell['ended']} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f} %)"


def _mean(cell: Row | None) -> str:
    if cell is None:
        return ""
    if cell["low"] is None:
        return f"{_number(cell['value'])} (1)"
    return (
        f"{_number(cell['value'])} ({_interval(cell)}; {_number(cell['deviation'])}; {len(cell['values'])})"
    )


def _swing(cell: Row | None) -> str:
    return "" if cell is None or cell["oscillation"] is None else _with_interval(cell["oscillation"])


def _with_interval(row: Row) -> str:
    return _number(row["value"]) + (f" ({_interval(row)})" if row["low"] is not None else "")


def _interval(row: Row) -> str:
    return "" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"


def _number(value: float, signed: bool = False) -> str:
    """Format a number with fewer decimals the larger it is: one for a distance, three for a share."""
    digits = 1 if abs(value) >= 10 else 3 if abs(value) >= 0.1 else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
