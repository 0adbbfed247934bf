"""What a sweep came to: rows for tables, `summary.json`, and the last words on the screen.

`summary.json`: name, launch, seconds; the GPU-hours held so far, their cost by the sweep's budget,
and both in words; counts `finished`, `collapsed`, `stopped`, `failed`; the
`prompts` used and set aside; `tracking` URI, experiment and parent run; and `trials`, each with
its settings, status, scores (value, samples, 95 % interval, protocol), its teacher's scores, of both
the one that trials are ranked by once more (`metric`, `score`, `score_low`, `score_high`,
`teacher_score`), seconds of training, MLflow run, model URI, whether it is its backbone's champion,
its `curve` over strength with the `best` arm, and checkpoint with its digest.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.common.redaction import redact
from orchestrator.config.ranking import NAMES, describe_arm, find_score, format_score
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.planning.plan import Plan
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Entry
from orchestrator.tracking import Tracker
from orchestrator.tracking.server import look_command
from workloads.scorers.score import Score

ENDS = ("finished", "collapsed", "stopped")
"""Statuses of a trial that has a result."""
STATUSES = (*ENDS, "failed")


def comparison_rows(
    entries: Sequence[Entry],
    teachers: Mapping[str, Sequence[Score]],
    champions: Container[str],
    metric: str | None,
) -> list[dict[str, Any]]:
    """One row a trial, in the order of the plan; `metric` is what they are ranked by."""
    rows = []
    for entry in entries:
        trial = entry.trial
        score, teacher = find_score(entry.scores, metric), find_score(teachers[trial.source], metric)
        rows.append(
            {
                "trial": trial.name,
                "digest": trial.digest,
                "backbone": trial.backbone.name,
                "interval": trial.interval,
                "seed": trial.train.seed,
                "status": entry.status,
                "note": entry.note,
                "metric": score.metric if score else None,
                "score": score.value if score else None,
                "score_low": score.low if score else None,
                "score_high": score.high if score else None,
                "teacher_score": teacher.value if teacher else None,
                "scores": [asdict(s) for s in entry.scores],
                "teacher_scores": [asdict(s) for s in teachers[trial.source]],
                "train_seconds": round(entry.train_seconds, 1),
                "settings": asdict(trial.train),
                "run": entry.run,
                "model": entry.model,
                "champion": trial.digest in champions,
                "curve": entry.curve,
                "best": entry.best,
                "checkpoint": entry.checkpoint,
                "checkpoint_sha256": entry.checkpoint_digest,
                "zero_stage": entry.zero_stage,
            }
        )
    return rows


def summary(
    plan: Plan,
    rows: Sequence[dict[str, Any]],
    prompts: PromptSet,
    tracker: Tracker,
    meter: GpuHourBudget,
    failures: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """The content of `summary.json`; see the module's docstring."""
    return {
        "name": plan.sweep.name,
        "launch": plan.digest,
        "seconds": round(seconds, 1),
        **{status: sum(row["status"] == status for row in rows) for status in ENDS},
        # Whatever has no result counts, so that no trial is ever lost from the sums.
        "failed": sum(row["status"] not in ENDS for row in rows),
        "trainings": len(rows),
        "infer_trials": sum(len(row["curve"]) for row in rows),
        "infer_failures": list(failures),
        "gpu_hours": round(meter.gpu_hours, 4),
        "cost": meter.cost,
        "spent": meter.words,
        "prompts": {"used": prompts.prompts, "set_aside": prompts.set_aside, "digest": prompts.digest},
        "tracking": {
            "uri": redact(tracker.uri),
            "experiment": plan.sweep.name,
            "experiment_id": tracker.experiment,
            "parent_run": tracker.parent,
        },
        "trials": list(rows),
    }


def closing_words(result: Mapping[str, Any], place: str, uri: str) -> str:
    """The table of trials, where the students are, and how to look at them."""
    rows = result["trials"]
    width = max(len(row["trial"]) for row in rows)
    across = max(len("best strength"), *(len(_best(row)) for row in rows))
    metric = next((NAMES[row["metric"]] for row in rows if row["metric"]), "score")
    heads = f"{metric:>8}  {'95 % interval':>17}  {'teacher':>8}  {'train s':>8}  {'best strength':>{across}}"
    lines = [f"{'trial':<{width}}  {'status':<9}  {heads}  model"]
    for row in rows:
        lines.append(
            f"{row['trial']:<{width}}  {row['status']:<9}  {_score(row)}  {row['train_seconds']:>8.0f}  "
            f"{_best(row):>{across}}  {row['model'] or row['note']}{' @champion' if row['champion'] else ''}"
        )
    counts = ", ".join(f"{result[status]} {status}" for status in STATUSES if result[status])
    lines += [
        f"{len(rows)} trials: {counts}; {result['seconds']:.0f} s",
        *([f"{result['infer_trials']} strengths of students, no training"] if result["infer_trials"] else []),
        *result["infer_failures"],
        *([f"spent:   {result['spent']}"] if result["spent"] else []),
        f"summary: {place}/summary.json, {place}/report.html",
        f"look:    {look_command(uri, result['tracking']['experiment_id'])}",
    ]
    champion = next((row["model"].rsplit("/", 1)[0] for row in rows if row["champion"]), None)
    if champion:
        lines.append(
            f"draw:    python -m orchestrator.generate --model {champion}@champion --prompt '...' "
            f"--tracking-uri {redact(uri)}"
        )
    return "\n".join(lines)


def _score(row: Mapping[str, Any]) -> str:
    """The score that ranks, its interval, and the teacher's."""
    if row["score"] is None:
        return f"{'-':>8}  {'-':>17}  {'-':>8}"
    value, low, high, teacher = (
        format_score(row["metric"], row[key]) for key in ("score", "score_low", "score_high", "teacher_score")
    )
    return f"{value:>8}  {low.removesuffix(' %') + ' to ' + high:>17}  {teacher:>8}"


def _best(row: Mapping[str, Any]) -> str:
    return describe_arm(row["best"]) if row["best"] else "-"
