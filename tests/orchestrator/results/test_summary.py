"""The summary of a sweep: table, plot and view use the score that ranks its trials."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import Trial, make_plan
from orchestrator.reporting.rows import ArmRow, SweepSummary, TrialRow
from orchestrator.reporting.strength_figures import plotted_rows
from orchestrator.results.record import TrialRecord
from orchestrator.results.summary import closing_table, trial_rows
from orchestrator.tracking.parent_run import comparison_figure, sweep_description
from workloads.scorers.score import Score
from workloads.settings.train import AttentionGuidanceSettings

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


def rows(trials: tuple[Trial, ...], metric: str) -> list[TrialRow]:
    """Rows of two trials with scores, and of one that failed."""
    others = [score(other, 0.25) for other in ("frechet_distance", *SCORES) if other != metric]
    scored = [
        TrialRecord(trial, "run", "finished", scores=[*others, score(metric, value)])
        for trial, value in zip(trials, (0.75, 0.5), strict=False)
    ]
    teachers = {trials[0].teacher: [*others, score(metric, 0.875)]}
    failed = TrialRecord(trials[2], "run", "failed", note="why")
    return list(trial_rows([*scored, failed], teachers, (), metric))


def summary(rows: list[TrialRow]) -> SweepSummary:
    tracking = {"uri": "", "experiment": "tiny", "experiment_id": "1", "parent_run": "run"}
    return SweepSummary("tiny", "abc", 1.0, (), 0.0, None, "", {"used": 64}, tracking, tuple(rows))


def table(rows: list[TrialRow]) -> list[str]:
    return closing_table(summary(rows), "results", "").split("\n")


@pytest.mark.parametrize("metric", SCORES)
def test_the_table_shows_the_ranking_score(trials: tuple[Trial, ...], metric: str) -> None:
    name, value, interval = SCORES[metric]
    heads, first, _, failed = table(rows(trials, metric))[:4]
    assert heads.split("status")[1].split()[0] == name
    teacher = "87.5 %" if "%" in value else "0.8750"
    assert " ".join(first.split()).startswith(f"{trials[0].name} finished {value} {interval} {teacher} ")
    assert failed.split()[1:5] == ["failed", "-", "-", "-"] and failed.endswith("why")


@pytest.mark.parametrize("metric", SCORES)
def test_the_plot_shows_the_ranking_score(trials: tuple[Trial, ...], metric: str) -> None:
    picture = comparison_figure(rows(trials, metric))
    assert picture is not None
    (axes,) = picture.axes
    assert axes.get_xlabel().startswith(SCORES[metric][0])
    unit = 100 if metric == "attribute_accuracy" else 1
    for marker, values in (("o", [0.5, 0.75]), ("|", [0.45, 0.55, 0.7, 0.8, 0.875, 0.875])):
        shown = sorted(
            float(x) for line in axes.lines if line.get_marker() == marker for x in np.ravel(line.get_xdata())
        )
        assert shown == pytest.approx([unit * value for value in values])


def test_a_perfect_score_is_plotted(trials: tuple[Trial, ...]) -> None:
    made = rows(trials, "attribute_accuracy")
    made[0] = replace(made[0], score=1.0, score_high=1.0 - 1e-16, score_low=0.9)
    assert comparison_figure(made) is not None


RANKINGS = [
    ("[{name: clip, weights: miniature/clip}, attributes]", "", "attribute_accuracy"),
    ("[{name: clip, weights: miniature/clip}, attributes]", "clip_plus", "clip_plus"),
    ("[fidelity, {name: clip, weights: miniature/clip}]", "", "clip_plus"),
    ("[fidelity]", "", None),
]


@pytest.mark.parametrize(("scorers", "named", "metric"), RANKINGS)
def test_the_first_measured_metric_ranks_by_default(
    scorers: str, named: str, metric: str | None, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    overrides = [f"evaluate.scorers={scorers}", *([f"search.metric={named}"] if named else [])]
    assert load_sweep(tmp_path / "sweep.yaml", overrides).sweep.ranked_by == metric


def test_of_many_trials_the_best_are_plotted(trials: tuple[Trial, ...]) -> None:
    one = rows(trials, "hps_v2.1")
    many = [replace(one[2], trial=f"failed-{n}") for n in range(30)] + [
        replace(one[0], trial=f"scored-{n}", score=n / 100) for n in range(30)
    ]
    drawn = {row.trial for row in plotted_rows(many)}
    assert len(drawn) == 40 and {f"scored-{n}" for n in range(30)} <= drawn


def test_the_best_strength_shows_its_measure(trials: tuple[Trial, ...]) -> None:
    made, nasa = rows(trials, "clip_plus"), AttentionGuidanceSettings("nasa", 0.5)
    made[0] = replace(made[0], best=ArmRow(nasa, (score("removal_rate", 0.8),)))
    made[1] = replace(made[1], best=ArmRow(nasa, (score("hps_v2.1", 0.28),)))
    lines = table(made)
    assert "nasa 0.5: 80 % removed" in lines[1] and "nasa 0.5: HPSv2.1 0.2800" in lines[2]


def test_a_summary_counts_every_trial(trials: tuple[Trial, ...]) -> None:
    found = summary(rows(trials, "clip_plus"))
    stored = json.loads(json.dumps(found.to_json()))
    assert (stored["finished"], stored["failed"], stored["trainings"]) == (2, 1, 3)
    assert not found.complete
    assert [TrialRow.from_json(row) for row in stored["trials"]] == [
        replace(row, settings=stored["trials"][place]["settings"]) for place, row in enumerate(found.trials)
    ]


def test_the_description_lists_trials_and_champions(trials: tuple[Trial, ...]) -> None:
    made = rows(trials, "clip_plus")
    made[0] = replace(made[0], champion=True, model="models:/tiny-pixart/1")
    text = sweep_description(summary(made), "s3://bucket/tiny")
    assert f"| {trials[0].name} | finished | 0.7500 | 0.8750 |" in text
    assert "`models:/tiny-pixart@champion`" in text and "s3://bucket/tiny/report.html" in text
