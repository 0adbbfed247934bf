"""Trainings as a study reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COMPARED_STATUSES = ("finished", "collapsed")
"""Statuses of trainings that are compared: they used their whole budget, or collapsed."""


@dataclass(frozen=True)
class Training:
    """One training, as it was recorded."""

    trial: str
    backbone: str
    seed: int
    settings: Mapping[str, str]
    """Settings by flat name, as text."""
    status: str
    """A `ledger.Status`; empty if the training has not ended."""
    histories: Mapping[str, Sequence[float]]
    """Scores of each measured metric of `seed_study.HIGHER_IS_BETTER`, one per evaluation."""
