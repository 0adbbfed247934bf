"""The curve of a student over guidance scale and strength: scores of every arm, removal, and its cost.

Arms are compared picture by picture with the plain student's at the same scale, drawn from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.reporting.rows import ArmRow, PairRow
from workloads.scorers.catalogue import make_scorer
from workloads.scorers.score import Score, find_score, mean, share
from workloads.scorers.scorer import Request
from workloads.settings.scorers import ScorerSettings
from workloads.settings.train import AttentionGuidanceSettings

SHOWN_OFTEN = 0.3
"""Least rate at which the plain student shows a pair's negative, for the pair to count for removal."""
SHOWN = "negative_shown"


@dataclass(frozen=True)
class Measured:
    """Measurements of a student at one arm."""

    guidance: AttentionGuidanceSettings
    scale: float | None
    table: pd.DataFrame | None
    """A row for each picture of a pair; None without pairs."""
    at_scale: tuple[Score, ...] = ()
    """Scores of the plain student at the scale."""


def curve(measured: Sequence[Measured], scorers: Sequence[ScorerSettings]) -> list[ArmRow]:
    """Return the arms of one student; the first of each scale is the plain student."""
    plain = {each.scale: each.table for each in reversed(measured)}
    return [_arm(each, plain[each.scale], scorers) for each in measured]


def best_scale(arms: Sequence[ArmRow], metric: str | None) -> float | None:
    """Return the scale at which the plain student's score `metric` is highest; None without scales.

    Without that score it is the middle one.
    """
    plain = [arm for arm in arms if arm.is_plain and arm.scale is not None]
    if not plain:
        return None
    scores = [find_score(arm.at_scale, metric) for arm in plain]
    if any(score is None for score in scores):
        return plain[len(plain) // 2].scale
    values = [score.value for score in scores if score is not None]
    return plain[values.index(max(values))].scale


def best(arms: Sequence[ArmRow], max_accuracy_loss: float) -> ArmRow:
    """Return the arm, of those of one scale, that removes most at a cost of at most `max_accuracy_loss`.

    Removal is `removal_rate`, the cost is `accuracy_lost` or the relative `clip_plus_lost`. Without removal
    the highest HPSv2 decides, without that the plain student is chosen. Among equals the least strength is.
    """
    allowed = [arm for arm in arms if _lost(arm) <= max_accuracy_loss]
    preference = [(_merit(arm), -arm.guidance.strength) for arm in allowed]
    return allowed[preference.index(max(preference))]


def _lost(arm: ArmRow) -> float:
    return max(arm.value("accuracy_lost"), arm.value("clip_plus_lost"))


def _merit(arm: ArmRow) -> float:
    removal = arm.score("removal_rate")
    if removal is not None:
        return removal.value
    return next((score.value for score in arm.scores if score.metric.startswith("hps_v")), 0.0)


def _arm(measured: Measured, plain: pd.DataFrame | None, scorers: Sequence[ScorerSettings]) -> ArmRow:
    table, scores = measured.table, list[Score]()
    if table is None or plain is None:
        return ArmRow(measured.guidance, scale=measured.scale, at_scale=measured.at_scale)
    requests = [Request(*row) for row in zip(*(table[key] for key in ASKED), strict=True)]
    for settings in scorers:
        prefix = f"{settings.name}/"
        own = [name for name in table if name.startswith(prefix)]
        columns = {name.removeprefix(prefix): _array(table, name) for name in own}
        scores += make_scorer(settings).summarise(columns, requests)
    scores += _against_plain(table, plain)
    pairs = tuple(_by_pair(table))
    return ArmRow(measured.guidance, tuple(scores), pairs, measured.scale, measured.at_scale)


ASKED = ("prompt", "negative_prompt", "style")


def _against_plain(table: pd.DataFrame, plain: pd.DataFrame) -> list[Score]:
    scores = []
    shown = _column(plain, SHOWN)
    if shown is not None:
        rate = shown.groupby(plain["pair"]).transform("mean")
        before = (rate >= SHOWN_OFTEN) & (shown == 1)
        gone = (_column(table, SHOWN)[before] == 0).sum()  # type: ignore[index]
        if before.any():
            protocol = f"of {before.sum()} pictures whose negative the plain student shows, in " + (
                f"pairs where it does in {100 * SHOWN_OFTEN:.0f} % or more"
            )
            scores.append(share("removal_rate", int(gone), int(before.sum()), protocol))
    for name, metric in (("asked_hits", "accuracy_lost"), ("clip_plus", "clip_plus_lost")):
        ours, theirs = _column(table, name), _column(plain, name)
        if ours is not None and theirs is not None:
            per = _column(plain, "asked_count") if name == "asked_hits" else theirs
            lost = ((theirs - ours) / per.mean()).tolist()  # type: ignore[union-attr]
            scores.append(mean(metric, lost, f"plain student less this one, {len(lost)} pairs of pictures"))
    return scores


def _by_pair(table: pd.DataFrame) -> list[PairRow]:
    shown = _column(table, SHOWN)
    rows = []
    for _, part in table.groupby("pair", sort=True):
        prompt, negative = (str(part[key].iloc[0]) for key in ("prompt", "negative_prompt"))
        rate = None if shown is None else float(shown[part.index].mean())
        rows.append(PairRow(prompt, negative, rate))
    return rows


def _column(table: pd.DataFrame, name: str) -> "pd.Series[float] | None":
    """Return the column that a scorer measured under `name`."""
    found = [column for column in table if column.endswith(f"/{name}")]
    return table[found[0]].astype(float) if found else None


def _array(table: pd.DataFrame, name: str) -> npt.NDArray[np.float32]:
    return np.stack(list(table[name])).astype(np.float32)
