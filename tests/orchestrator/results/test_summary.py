"""What a sweep came to, said in the terms of the score that its trials are ranked by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import Trial, make_plan
from orchestrator.reporting.strength_figures import pictured
from orchestrator.results.ledger import Entry
from orchestrator.results.summary import closing_words, comparison_rows
from orchestrator.tracking.parent_run import comparison_picture
from orchestrator.tracking.ui_view import view
from workloads.scorers.score import Score

SWEEP = """name: tiny
prompts: {source: "miniature:64"}
backbones: [{name: pixart, model: miniature/pixart}]
train: {steps: 12, seed: {values: [0, 1, 2]}}
evaluate: {sheet_prompts: [a circle]}
"""
SCORES = {
    "attribute_accuracy": ["accuracy", "75.0 %", "70.0 to 80.0 %"],
    "hps_v2.1": ["HPSv2.1", "0.7500", "0.7000 to 0.8000"],
    "clip_plus": ["CLIP+", "0.7500", "0.7000 to 0.8000"],
}


def score(metric: str, value: float) -> Score:
    return Score(metric, value, 64, value - 0.05, value + 0.05, "p")


@pytest.fixture
def trials(tmp_path: Path) -> tuple[Trial, ...]:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tuple(make_plan(load_sweep(tmp_path / "sweep.yaml")).trials)


def rows(trials: tuple[Trial, ...], metric: str) -> list[dict[str, Any]]:
    """Of two trials that were scored, and one that failed."""
    others = [score(other, 0.25) for other in ("frechet_distance", *SCORES) if other != metric]
    scored = [
        Entry(trial, "run", "finished", scores=[*others, score(metric, value)])
        for trial, value in zip(trials, (0.75, 0.5), strict=False)
    ]
    teachers = {trials[0].source: [*others, score(metric, 0.875)]}
    return comparison_rows([*scored, Entry(trials[2], "run", "failed", note="why")], teachers, (), metric)


def words(trials: list[dict[str, Any]]) -> list[str]:
    result = {"trials": trials, "seconds": 1.0, "infer_trials": 0, "infer_failures": [], "spent": ""}
    counts = {"finished": 2, "collapsed": 0, "stopped": 0, "failed": 1}
    return closing_words(result | counts | {"tracking": {"experiment_id": "1"}}, "results", "").split("\n")


@pytest.mark.parametrize("metric", SCORES)
def test_the_table_tells_the_score_that_ranks(trials: tuple[Trial, ...], metric: str) -> None:
    name, value, interval = SCORES[metric]
    heads, first, _, failed = words(rows(trials, metric))[:4]
    assert heads.split("status")[1].split()[0] == name
    teacher = "87.5 %" if "%" in value else "0.8750"
    assert " ".join(first.split()).startswith(f"{trials[0].name} finished {value} {interval} {teacher} ")
    assert failed.split()[1:5] == ["failed", "-", "-", "-"] and failed.endswith("why")


@pytest.mark.parametrize("metric", SCORES)
def test_the_picture_shows_the_score_that_ranks(trials: tuple[Trial, ...], metric: str) -> None:
    picture = comparison_picture(rows(trials, metric))
    assert picture is not None
    (axes,) = picture.axes
    assert axes.get_xlabel().startswith(SCORES[metric][0])
    unit = 100 if metric == "attribute_accuracy" else 1
    for marker, values in (("o", [0.5, 0.75]), ("|", [0.45, 0.55, 0.7, 0.8, 0.875, 0.875])):
        shown = sorted(
            float(x) for line in axes.lines if line.get_marker() == marker for x in np.ravel(line.get_xdata())
        )
        assert shown == pytest.approx([unit * value for value in values])


def test_a_trial_that_is_right_always_is_drawn_too(trials: tuple[Trial, ...]) -> None:
    made = rows(trials, "attribute_accuracy")
    made[0] |= {"score": 1.0, "score_high": 1.0 - 1e-16, "score_low": 0.9}
    assert comparison_picture(made) is not None


RANKINGS = [
    ("[{name: clip, weights: miniature/clip}, attributes]", "", "attribute_accuracy"),
    ("[{name: clip, weights: miniature/clip}, attributes]", "clip_plus", "clip_plus"),
    ("[fidelity, {name: clip, weights: miniature/clip}]", "", "clip_plus"),
    ("[fidelity]", "", None),
]


@pytest.mark.parametrize(("scorers", "named", "metric"), RANKINGS)
def test_the_first_that_is_measured_ranks_unless_one_is_named(
    scorers: str, named: str, metric: str | None, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    overrides = [f"evaluate.scorers={scorers}", *([f"search.metric={named}"] if named else [])]
    assert load_sweep(tmp_path / "sweep.yaml", overrides).sweep.ranked_by == metric


def test_many_trials_are_drawn_best_first_whatever_ranks(trials: tuple[Trial, ...]) -> None:
    one = rows(trials, "hps_v2.1")
    many = [{**one[2], "trial": f"failed-{n}"} for n in range(30)] + [
        {**one[0], "trial": f"scored-{n}", "score": n / 100} for n in range(30)
    ]
    drawn = {row["trial"] for row in pictured(many)}
    assert len(drawn) == 40 and {f"scored-{n}" for n in range(30)} <= drawn


def test_the_view_is_sorted_by_the_score_that_ranks() -> None:
    shown = json.loads(view("hps_v2.1"))
    assert shown["orderByKey"] == shown["selectedColumns"][0] == "metrics.`hps_v2.1`"
    assert r"hps_v2\.1" in shown["chartsSearchFilter"]
    assert not any("hps" in column for column in json.loads(view(None))["selectedColumns"])


def test_a_students_best_strength_is_told_by_what_was_measured(trials: tuple[Trial, ...]) -> None:
    made = rows(trials, "clip_plus")
    best = {"kind": "nasa", "label": "nasa", "strength": 0.5}
    made[0]["best"] = best | {"scores": [{"metric": "removal_rate", "value": 0.8}]}
    made[1]["best"] = best | {"scores": [{"metric": "hps_v2.1", "value": 0.28}]}
    lines = words(made)
    assert "nasa 0.5: 80 % removed" in lines[1] and "nasa 0.5: HPSv2.1 0.2800" in lines[2]
