"""Quality and time by the number of a student's steps, as part of a sweep's page."""

from collections.abc import Sequence

from orchestrator.reporting.html import table
from orchestrator.reporting.rows import TrialRow
from workloads.scorers.score import Score, find_score


def steps_parts(rows: Sequence[TrialRow]) -> list[str]:
    """Return the table as HTML; nothing unless students of some backbone differ in their steps."""
    groups: dict[tuple[str, int], list[TrialRow]] = {}
    for row in (row for row in rows if row.scores):
        groups.setdefault((row.backbone, row.student_steps), []).append(row)
    if len(groups) == len({backbone for backbone, _ in groups}):
        return []
    metrics = list(dict.fromkeys(score.metric for row in rows for score in row.scores))
    heads = ["backbone", "steps", "students", *(metric.replace("_", " ") for metric in metrics)]
    return [
        "<h2>Quality and time by the student's steps</h2>",
        "<p>A step is one network call. Means over the students. Time is that of a picture, in batches, "
        "drawn and decoded where the scores are measured, beside whatever else ran there.</p>",
        table([*heads, "ms a picture"], _lines(groups, metrics)),
    ]


def _lines(groups: dict[tuple[str, int], list[TrialRow]], metrics: Sequence[str]) -> list[list[str]]:
    lines = []
    for backbone in dict.fromkeys(backbone for backbone, _ in groups):
        own = {steps: group for (of, steps), group in sorted(groups.items()) if of == backbone}
        teacher = next(iter(own.values()))[0].teacher_scores
        lines.append([backbone, "teacher", "", *(_mean([teacher], metric) for metric in metrics), ""])
        for steps, group in own.items():
            cells = [_mean([row.scores for row in group], metric) for metric in metrics]
            lines.append([backbone, str(steps), str(len(group)), *cells, _milliseconds(group)])
    return lines


def _mean(scores: Sequence[Sequence[Score]], metric: str) -> str:
    values = [found.value for each in scores if (found := find_score(each, metric)) is not None]
    return f"{sum(values) / len(values):.3f}" if values else ""


def _milliseconds(rows: Sequence[TrialRow]) -> str:
    values = [row.seconds_per_picture for row in rows if row.seconds_per_picture is not None]
    return f"{1000 * sum(values) / len(values):.2f}" if values else ""
