"""The best student of each backbone, which MLflow knows as NAME@champion."""

from collections.abc import Sequence

from orchestrator.config.ranking import STRENGTH_METRICS, first_measured
from orchestrator.planning.plan import describe_loras
from orchestrator.results.record import TrialRecord
from orchestrator.tracking.registry import name_champion
from workloads.scorers.score import find_score


def assign_champion_aliases(records: Sequence[TrialRecord], metric: str | None) -> set[str]:
    """Give the best student of each backbone the alias `champion`; return the digests of their trials.

    Args:
        records: all trials.
        metric: ranks students, highest first. Without it students rank by HPSv2 or CLIP+ at their best
            strengths; students without scores get no alias.
    """
    champions: dict[str, TrialRecord] = {}
    values = [(_ranking_value(record, metric), record) for record in records if record.model]
    scored = [(value, record) for value, record in values if value is not None]
    # Ascending, so that the last record of a backbone is its best.
    for _, record in sorted(scored, key=lambda pair: pair[0]):
        champions[record.trial.backbone.name] = record
    for record in champions.values():
        name_champion(record.model, _champion_tags(record))
    return {record.trial.digest for record in champions.values()}


def _champion_tags(record: TrialRecord) -> dict[str, str]:
    trial = record.trial
    tags = {"guidance_interval": trial.interval, "base_model": trial.backbone.model}
    if trial.loras:
        tags["loras"] = describe_loras(trial.backbone)
    tags |= {score.metric: f"{score.value:.4f}" for score in record.default_scores}
    if record.best is not None:
        tags |= {"guidance": record.best.label, "strength": f"{record.best.strength:g}"}
        tags |= {} if record.best.scale is None else {"guidance_scale": f"{record.best.scale:g}"}
    return tags


def _ranking_value(record: TrialRecord, metric: str | None) -> float | None:
    score = find_score(record.default_scores, metric)
    if score is None and record.best is not None:
        score = record.best.score(first_measured(STRENGTH_METRICS, record.best.metrics) or "")
    return None if score is None else score.value
