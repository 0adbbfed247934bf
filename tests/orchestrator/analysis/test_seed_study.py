"""Seed study: statistics against derivations by hand, arms and rankings on synthetic trainings."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from orchestrator.analysis.early_stopping import Histories, early_stopping
from orchestrator.analysis.rows import EarlyStoppingRow, Study
from orchestrator.analysis.seed_study import has_seeds, study
from orchestrator.analysis.statistics import (
    Estimate,
    bootstrap_means,
    mean_difference,
    oscillation,
    over_seeds,
    probability_of_best,
    ranks,
    sign_flip_p,
)
from orchestrator.analysis.training import Training
from orchestrator.reporting.study_report import study_parts

REPORT = Path(__file__).parents[3] / "sweeps/stability/report.json"
T2 = 4.302653
"""Student's t of 2 degrees of freedom at 97.5 %, from a table."""


def near(estimate: Estimate, value: float, half: float) -> bool:
    assert estimate.low is not None and estimate.high is not None
    return (estimate.value, estimate.low, estimate.high) == pytest.approx((value, value - half, value + half))


def test_mean_over_seeds_has_students_interval() -> None:
    assert near(over_seeds([1, 2, 3]), 2, T2 / 3**0.5)
    assert over_seeds([0.5]) == Estimate(0.5)


def test_oscillation_is_the_mean_worsening() -> None:
    scores = [0.5, 0.7, 0.6, 0.8]
    assert oscillation(scores, True) == pytest.approx(0.1 / 3)
    assert oscillation(scores, False) == pytest.approx(0.4 / 3)
    assert oscillation([1, 2, 5], True) == 0
    assert oscillation([1, 0], True) is None


def test_difference_has_the_error_over_seeds_alone() -> None:
    """Two backbones, s^2 / n = 1 each: se = sqrt(2) / 2, freedom 4 / (1 + 1); their distance adds nothing."""
    assert near(mean_difference([[1, 3], [11, 13]]), 7, T2 * 2**0.5 / 2)
    assert near(mean_difference([[1, 2, 3]]), 2, T2 / 3**0.5)
    assert mean_difference([[1], [2, 3]]) == Estimate(1.75)


def test_all_sign_flips_are_tried() -> None:
    assert sign_flip_p([[1, 1, 1]]) == 2 / 8
    assert sign_flip_p([[1, -1]]) == 1
    pairs = [[0.3, -0.1, 0.4], [0.2, 0.5]]
    weighted = [d / 2 / len(own) for own in pairs for d in own]
    sums = [abs(sum(s * w for s, w in zip(signs, weighted, strict=True)))
            for signs in itertools.product((1, -1), repeat=5)]  # fmt: skip
    expected = sum(each >= sum(weighted) - 1e-12 for each in sums) / len(sums)
    assert sign_flip_p(pairs) == expected
    # For 20 pairs a random 2^16, of which almost none but the observed signs are as far from 0.
    assert sign_flip_p([[1.0] * 20]) <= 3 / 2**16


def test_bootstrap_draws_the_same_seeds_for_all_arms() -> None:
    cells = {"a": {"x": {0: 0.0, 1: 1.0}}, "b": {"x": {0: 0.1, 1: 1.1}}}
    means = bootstrap_means(cells)
    shares = [(means[0, 0] == value).mean() for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert np.allclose(means[1] - means[0], 0.1)
    apart = bootstrap_means({"a": {"x": {0: 0.0, 1: 1.0}}, "b": {"x": {2: 0.1, 3: 1.1}}})
    assert len(np.unique((apart[1] - apart[0]).round(3))) == 5


def test_equals_share_a_rank() -> None:
    scores = np.array([[1.0, 3.0], [1.0, 2.0], [0.0, 2.0]])
    assert probability_of_best(scores).tolist() == [0.75, 0.25, 0]
    assert ranks(scores).tolist() == [[1, 1], [1, 2], [3, 2]]


def training(
    backbone: str, scale: str, seed: int, accuracy: float, status: str = "finished", **settings: str
) -> Training:
    given = {"backbone": backbone, "seed": str(seed), "guidance_interval": scale, "steps": "90", **settings}
    return Training("t", backbone, seed, given, status, {"attribute_accuracy": [0.1, 0.5, 0.4, accuracy]})


def grid(*rows: tuple[str, str, tuple[float, ...]]) -> list[Training]:
    """Trainings from rows of backbone, guidance interval and an accuracy per seed."""
    return [training(b, s, seed, value) for b, s, values in rows for seed, value in enumerate(values)]


ROWS = grid(
    ("x", "(1, 5)", (0.90, 0.92)), ("x", "(3, 3)", (0.80, 0.84)),
    ("y", "(1, 5)", (0.70, 0.74)), ("y", "(3, 3)", (0.78, 0.80)),
)  # fmt: skip
FIRST, SECOND = "guidance_interval (1, 5)", "guidance_interval (3, 3)"


def test_arms_are_ranked_by_their_worst_backbone() -> None:
    ranking = study(ROWS)["rankings"]["attribute_accuracy"]
    best, other = ranking["arms"]
    assert (best["arm"], best["worst_backbone"]) == (SECOND, "y") and best["worst"] == pytest.approx(0.79)
    assert (other["arm"], other["worst_backbone"]) == (FIRST, "y") and other["worst"] == pytest.approx(0.72)
    # Every draw of seeds gives 0.78 or more for one arm, 0.74 or less for the other.
    assert (best["best_probability"], other["best_probability"]) == (1, 0)
    assert (best["low"], best["high"]) == pytest.approx((0.78, 0.80))
    (difference,) = ranking["differences"]
    assert (difference["first"], difference["second"], difference["pairs"]) == (FIRST, SECOND, 4)
    assert difference["value"] == pytest.approx((0.09 - 0.07) / 2)
    assert difference["worst"] == pytest.approx(-0.07)


def test_lower_is_better_for_a_distance() -> None:
    rows = [
        Training("t", "x", seed, {"steps": steps}, "finished", {"frechet_distance": [value]})
        for steps, values in (("9", (30.0, 31.0)), ("10", (20.0, 21.0)))
        for seed, value in enumerate(values)
    ]
    ranking = study(rows)["rankings"]["frechet_distance"]
    assert [row["arm"] for row in ranking["arms"]] == ["steps 10", "steps 9"]
    assert ranking["arms"][0]["best_probability"] == 1 and ranking["oscillation"]["arms"] == []


def test_cell_has_mean_oscillation_and_collapses() -> None:
    rows = [*ROWS, training("x", "(1, 5)", 2, 0.1, "collapsed"), training("x", "(1, 5)", 3, 0.2, "failed")]
    found = study([*rows, training("x", "(1, 5)", 4, 0.3, "")])
    cell = next(c for c in found["cells"] if (c["arm"], c["backbone"]) == (FIRST, "x"))
    assert (cell["ended"], cell["collapsed"]) == (3, 1)
    # Wilson, 1 of 3: (1/3 + z^2/6) / (1 + z^2/3) -+ z / (1 + z^2/3) sqrt(2/27 + z^2/36), z = 1.96.
    rate = cell["collapse_rate"]
    assert rate is not None and (rate["low"], rate["high"]) == pytest.approx((0.0615, 0.7923), abs=1e-4)
    measured = cell["metrics"]["attribute_accuracy"]
    assert measured["values"] == {0: 0.90, 1: 0.92, 2: 0.1}
    assert measured["oscillations"] == pytest.approx({0: 0.1 / 3, 1: 0.1 / 3, 2: 0.4 / 3})
    assert found["status"] == {"finished": 8, "collapsed": 1, "failed": 1, "not ended": 1}
    assert found["arms"][0]["ended"] == 5 and found["arms"][0]["collapsed"] == 1


def test_settings_that_vary_by_backbone_make_no_arm() -> None:
    rows = [training(b, s, 0, 0.5, learning_rate=rate)
            for b, rate in (("x", "1"), ("y", "2")) for s in ("(1, 5)", "(3, 3)")]  # fmt: skip
    assert [arm["arm"] for arm in study(rows)["arms"]] == [FIRST, SECOND]


def test_named_arms_keep_names_and_show_what_varies() -> None:
    named = [
        training("x", s, seed, 0.5, arm=arm)
        for s, arm in (("1", "random"), ("3", "fixed"))
        for seed in (0, 1)
    ]
    assert study(named)["arms"][0]["settings"] == {"guidance_interval": "1"}
    assert [arm["arm"] for arm in study(named)["arms"]] == ["random", "fixed"]
    within = [training("x", "1", 0, 0.5, arm="random", learning_rate=rate) for rate in ("1", "2")]
    assert [arm["arm"] for arm in study(within)["arms"]] == [
        "random, learning_rate 1",
        "random, learning_rate 2",
    ]


def test_arm_without_a_backbone_is_not_ranked() -> None:
    ranking = study([*ROWS, *grid(("x", "(2, 2)", (0.99, 0.99)))])["rankings"]["attribute_accuracy"]
    assert [row["arm"] for row in ranking["arms"]] == [SECOND, FIRST]
    assert ranking["not_ranked"] == ["guidance_interval (2, 2)"]


def test_one_seed_is_ranked_without_intervals() -> None:
    rows = grid(("x", "(1, 5)", (0.9,)), ("x", "(3, 3)", (0.8,)))
    assert not has_seeds(rows) and has_seeds(ROWS)
    found = study(rows)
    for row in found["rankings"]["attribute_accuracy"]["arms"]:
        assert row["low"] is row["best_probability"] is row["rank_low"] is None
    assert found["rankings"]["attribute_accuracy"]["differences"][0]["p"] is None
    assert "One seed of every arm" in "".join(study_parts(found))


def early(arms: Sequence[Histories], higher: bool = True) -> EarlyStoppingRow:
    """The rows of one backbone."""
    row = early_stopping({"x": arms}, higher)
    assert row is not None
    return row


def test_early_correlation_follows_the_order_of_arms() -> None:
    """Four arms: the first evaluation reverses their order, the second has it right."""
    arms = [{seed: [-arm, arm + seed / 100, arm + 0.5] for seed in (0, 1)} for arm in range(4)]
    found = early(arms)
    first, second = found["foretold"]
    assert [first["arms"]["value"], second["arms"]["value"]] == pytest.approx([-1, 1])
    assert second["trainings"]["value"] == pytest.approx(
        spearmanr([0, 0.01, 1, 1.01, 2, 2.01, 3, 3.01], [0, 0, 1, 1, 2, 2, 3, 3]).statistic
    )
    halving = {(each["look"], each["one_in"]): each for each in found["halving"]}
    # All four train for a third of the steps, the worst two for the other two thirds, which loses 2.
    assert halving[1, 2]["cost"] == pytest.approx((4 * 1 + 2 * 2) / 12)
    assert halving[1, 2]["loss"]["value"] == pytest.approx(2)
    assert halving[2, 4]["cost"] == pytest.approx((4 * 2 + 1 * 1) / 12)
    assert halving[2, 4]["loss"]["value"] == 0
    lower = early(arms, higher=False)
    assert lower["halving"][0]["loss"]["value"] == pytest.approx(2), "for a distance the lowest is best"


def test_page_shows_early_stopping() -> None:
    """Trainings of `ROWS` differ in the last of four evaluations alone; the others predict nothing."""
    page = "".join(study_parts(study(ROWS)))
    assert "3 of 4" in page
    # Two arms, one in two continues after the first evaluation: (2 * 1 + 1 * 3) / (2 * 4).
    assert "<td>1 of 4</td><td>1 in 2</td><td>62 %</td>" in page


def test_halving_is_judged_by_other_seeds() -> None:
    """The arm that wins at seed 0 is the worse one at seeds 1 and 2: halving's choice gains there."""
    lucky = {0: [0.1, 0.9], 1: [0.1, 0.2], 2: [0.1, 0.4]}
    steady = {0: [0.5, 0.8], 1: [0.5, 0.8], 2: [0.5, 0.8]}
    loss = early([lucky, steady])["halving"][0]["loss"]
    assert loss["value"] == pytest.approx((-0.5 + 0 + 0) / 3)


def test_collapsed_training_keeps_its_last_score() -> None:
    arms = [{0: [0.3], 1: [0.3, 0.4]}, {0: [0.5, 0.6], 1: [0.5, 0.6]}]
    assert early(arms)["foretold"][0]["arms"]["value"] == pytest.approx(1)


def test_early_stopping_needs_two_arms_and_equal_counts() -> None:
    two = [{0: [0.3, 0.4], 1: [0.3, 0.4]}, {0: [0.5, 0.6], 1: [0.5, 0.6]}]
    longer = [{0: [0.3, 0.4, 0.5], 1: [0.3, 0.4, 0.5]}] * 2
    assert early_stopping({"x": two[:1]}, True) is None
    assert early_stopping({"x": two, "y": longer}, True) is None


def recorded(report: Study) -> list[Training]:
    """The trainings behind a report in which every training finished; JSON has seeds as text."""
    arms = {arm["arm"]: {"arm": arm["arm"], **arm["settings"]} for arm in report["arms"]}
    rows = []
    for cell in report["cells"]:
        metrics = {metric: row["histories"] for metric, row in cell["metrics"].items()}
        for seed in metrics["attribute_accuracy"]:
            scores = {metric: histories[seed] for metric, histories in metrics.items()}
            rows.append(Training("t", cell["backbone"], int(seed), arms[cell["arm"]], "finished", scores))
    return rows


def test_stored_report_is_computed_again() -> None:
    """Keys, their order and values of the shipped report.json; it is older than the section `early`."""
    stored: Any = json.loads(REPORT.read_text())
    found = json.loads(json.dumps(study(recorded(stored))))
    assert len(found["early"]) == len(found["rankings"]) == 4
    for key, text in stored.pop("definitions").items():
        assert found["definitions"][key] == text
    for key in ("experiment", "tracking", "parent_run"):
        stored.pop(key)
    del found["definitions"], found["early"]
    assert json.dumps(shape(found)) == json.dumps(shape(stored))
    assert list(leaves(found)) == pytest.approx(list(leaves(stored)), rel=1e-9, abs=1e-9)


def shape(value: Any) -> Any:
    """A JSON value without its numbers."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return 0 if isinstance(value, int | float) else value


def leaves(value: Any) -> Iterator[float]:
    """The numbers of a JSON value, in order."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from leaves(part)
    if isinstance(value, int | float):
        yield value
