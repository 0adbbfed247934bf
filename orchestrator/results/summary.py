"""Building of a sweep's summary from the records of its trials, and the table that ends a launch.

`reporting.rows.SweepSummary` documents the content of `summary.json`.
"""

import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict

from orchestrator.common.redaction import redact
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.planning.plan import Plan
from orchestrator.reporting.formatting import NAMES, describe_arm, format_value
from orchestrator.reporting.rows import RESULTS, SweepSummary, TrialRow
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.record import TrialRecord
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.server import serve_command, view_address
from workloads.backbones.loras.entry import TeacherSource
from workloads.scorers.score import Score, find_score


def trial_rows(
    records: Sequence[TrialRecord],
    teachers: Mapping[TeacherSource, Sequence[Score]],
    champions: Container[str],
    metric: str | None,
) -> tuple[TrialRow, ...]:
    """Return one row a trial, in the order of `records`.

    Args:
        records: all trials.
        teachers: scores of the teachers' own pictures.
        champions: digests of the trials whose students are champions.
        metric: ranks the trials.
    """
    return tuple(_row(each, teachers[each.trial.teacher], champions, metric) for each in records)


def _row(
    record: TrialRecord, teacher: Sequence[Score], champions: Container[str], metric: str | None
) -> TrialRow:
    trial, score, theirs = (
        record.trial,
        find_score(record.default_scores, metric),
        find_score(teacher, metric),
    )
    return TrialRow(
        trial=trial.name,
        digest=trial.digest,
        backbone=trial.backbone.name,
        interval=trial.interval,
        seed=trial.train.seed,
        status=record.status,
        note=redact(record.note),
        metric=score.metric if score else None,
        score=score.value if score else None,
        score_low=score.low if score else None,
        score_high=score.high if score else None,
        teacher_score=theirs.value if theirs else None,
        scores=tuple(record.default_scores),
        teacher_scores=tuple(teacher),
        train_seconds=round(record.train_seconds, 1),
        settings=asdict(trial.train),
        run=record.run,
        model=record.model,
        champion=trial.digest in champions,
        curve=tuple(record.curve),
        best=record.best,
        checkpoint=record.checkpoint,
        checkpoint_sha256=record.checkpoint_digest,
        zero_stage=record.zero_stage,
        seconds_per_picture=record.seconds_per_picture,
        teacher=trial.backbone.model,
        course=tuple(record.course[step] for step in sorted(record.course)),
    )


def summarise(
    plan: Plan,
    rows: tuple[TrialRow, ...],
    prompts: PromptSet,
    tracker: Tracker,
    budget: GpuHourBudget,
    failures: Sequence[str],
    seconds: float,
) -> SweepSummary:
    """Return the summary of a launch that took `seconds`; `failures` are lines about students."""
    return SweepSummary(
        name=plan.sweep.name,
        launch=plan.digest,
        seconds=round(seconds, 1),
        infer_failures=tuple(map(redact, failures)),
        gpu_hours=round(budget.gpu_hours, 4),
        cost=budget.cost,
        spent=budget.summary,
        prompts={
            "used": prompts.prompts,
            "set_aside": prompts.set_aside,
            "files_left_out": prompts.left_out,
            "cut": dict(prompts.cut),
            "digest": prompts.digest,
        },
        tracking={
            "uri": redact(tracker.uri),
            "experiment": plan.sweep.name,
            "experiment_id": tracker.experiment,
            "parent_run": tracker.parent,
        },
        trials=rows,
    )


def closing_table(summary: SweepSummary, place: str, uri: str) -> str:
    """Return the table of trials, and commands that open the results.

    Args:
        summary: the sweep's results.
        place: URI of the sweep's folder in the storage.
        uri: MLflow's URI.
    """
    rows = summary.trials
    counts = ", ".join(f"{summary.count(s)} {s}" for s in (*RESULTS, "failed") if summary.count(s))
    lines = [
        *_table(rows),
        f"{len(rows)} trials: {counts}; {summary.seconds:.0f} s",
        *([f"{summary.strengths} strengths of students, no training"] if summary.strengths else []),
        *summary.infer_failures,
        *([f"spent:   {summary.spent}"] if summary.spent else []),
        f"summary: {place}/summary.json, {place}/report.html",
        *([f"serve:   {serve_command(uri)}"] if serve_command(uri) else []),
        f"open:    {view_address(uri, summary.tracking['experiment_id'])}",
    ]
    champion = next((row.model.rsplit("/", 1)[0] for row in rows if row.champion), None)
    if champion:
        lines.append(
            f"draw:    python -m orchestrator.generate --model {champion}@champion --prompt '...' "
            f"--tracking-uri {shlex.quote(redact(uri))}"
        )
    return "\n".join(lines)


def _table(rows: Sequence[TrialRow]) -> list[str]:
    width = max(len(row.trial) for row in rows)
    across = max(len("best strength"), *(len(_best(row)) for row in rows))
    metric = next((NAMES[row.metric] for row in rows if row.metric), "score")
    heads = f"{metric:>8}  {'95 % interval':>17}  {'teacher':>8}  {'train s':>8}  {'best strength':>{across}}"
    lines = [f"{'trial':<{width}}  {'status':<9}  {heads}  model"]
    for row in rows:
        lines.append(
            f"{row.trial:<{width}}  {row.status:<9}  {_score(row)}  {row.train_seconds:>8.0f}  "
            f"{_best(row):>{across}}  {row.model or row.note}{' @champion' if row.champion else ''}"
        )
    return lines


def _score(row: TrialRow) -> str:
    """Format the ranking score, its interval, and the teacher's score."""
    if row.metric is None or row.score is None or row.score_low is None or row.score_high is None:
        return f"{'-':>8}  {'-':>17}  {'-':>8}"
    value, low, high = (format_value(row.metric, each) for each in (row.score, row.score_low, row.score_high))
    teacher = "-" if row.teacher_score is None else format_value(row.metric, row.teacher_score)
    return f"{value:>8}  {low.removesuffix(' %') + ' to ' + high:>17}  {teacher:>8}"


def _best(row: TrialRow) -> str:
    return describe_arm(row.best) if row.best else "-"
