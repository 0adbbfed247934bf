"""Rows of a seed study, which are the content of `report.json`: their keys are the file's keys.

`seed_study.study` makes them and `reporting.study_report` shows them.
"""

from typing import NotRequired, TypedDict


class EstimateRow(TypedDict):
    """A number with its 95 % interval, which is None if the spread is unknown."""

    value: float
    low: float | None
    high: float | None


class CollapseRow(TypedDict):
    """Trainings that ended, and how many of them collapsed."""

    ended: int
    collapsed: int
    collapse_rate: EstimateRow | None


class ArmRow(CollapseRow):
    """An arm on all backbones together."""

    arm: str
    settings: dict[str, str]
    """Settings of the arm that the sweep varied."""


class MetricRow(EstimateRow):
    """A metric of one cell: the mean of its last scores over seeds, with its interval."""

    values: dict[int, float]
    """Last score by seed."""
    deviation: float
    """Standard deviation of these over seeds."""
    histories: dict[int, list[float]]
    """Scores by seed, one per evaluation."""
    oscillations: dict[int, float]
    oscillation: EstimateRow | None


class CellRow(CollapseRow):
    """An arm on one backbone."""

    arm: str
    backbone: str
    metrics: dict[str, MetricRow]
    """Only the metrics that were measured."""


class RankedArmRow(TypedDict):
    """Place of an arm in a ranking: the mean on its worst backbone; without seeds, no interval."""

    arm: str
    worst_backbone: str
    worst: float
    low: float | None
    high: float | None
    best_probability: float | None
    rank_low: float | None
    rank_high: float | None


class DifferenceRow(EstimateRow):
    """First less second arm, over pairs of one backbone and seed."""

    first: str
    second: str
    pairs: int
    p: float | None
    worst: float
    """Difference of the means on their worst backbones."""
    worst_low: float | None
    worst_high: float | None


class RankingRow(TypedDict):
    """Ranking of arms by one number."""

    better: str
    """"higher" or "lower"."""
    backbones: list[str]
    fewest_seeds: int
    arms: list[RankedArmRow]
    """Best first."""
    not_ranked: list[str]
    """Arms that were not measured on every backbone."""
    differences: list[DifferenceRow]


class MetricRankingRow(RankingRow):
    """Rankings of arms by a metric and by its oscillation."""

    oscillation: RankingRow


class CorrelationRow(EstimateRow):
    """Rank correlation of an early evaluation with the last one: mean over backbones."""

    by_backbone: list[float]


class EarlyCorrelationRow(TypedDict):
    """Rank correlations of evaluation `look` (from 1) with the last one."""

    look: int
    arms: CorrelationRow
    trainings: CorrelationRow


class HalvingRow(TypedDict):
    """Simulated successive halving: after evaluation `look` one in `one_in` arms continues."""

    look: int
    one_in: int
    cost: float
    """Share of the steps of training all arms to the end."""
    loss: EstimateRow
    """Score lost against the choice after training all arms to the end."""


class EarlyStoppingRow(TypedDict):
    """Early stopping by a metric: prediction of the last score, and cost and loss of halving."""

    looks: int
    """Evaluations in a training."""
    foretold: list[EarlyCorrelationRow]
    halving: list[HalvingRow]


class RegionCellRow(TypedDict):
    """One combination of the two settings, on one backbone, in one arm."""

    arm: str
    backbone: str
    values: list[float]
    """Of the two settings, in the order of `StabilityRow.settings`."""
    trainings: int
    failed: int
    accuracy: float | None
    """Mean of the last accuracies; None if none was measured."""


class AreaRow(EstimateRow):
    """Area of an arm's stable region, 0 to 1."""

    arm: str


class StabilityRow(TypedDict):
    """Stable regions of all arms."""

    settings: list[str]
    """The two settings that span the map."""
    cells: list[RegionCellRow]
    areas: list[AreaRow]
    """Arms whose every seed has trained every combination; others would not be comparable."""


class Study(TypedDict):
    """A whole study."""

    definitions: dict[str, str]
    """Explanation of each number."""
    trainings: int
    status: dict[str, int]
    """Number of trainings by status."""
    backbones: list[str]
    arms: list[ArmRow]
    cells: list[CellRow]
    rankings: dict[str, MetricRankingRow]
    """By metric."""
    early: dict[str, EarlyStoppingRow]
    """By metric."""
    stability: NotRequired[StabilityRow]
    """Only of sweeps with arms and two more settings."""
