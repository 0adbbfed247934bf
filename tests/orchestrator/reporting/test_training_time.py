"""Students of several objectives after equal time: interpolation, and when the part is shown."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.reporting.rows import TrialRow
from orchestrator.reporting.training_time import score_after, time_parts
from tests.orchestrator.reporting.test_sweep_report import ROW

METRIC = "attribute_accuracy"


def row(name: str, objective: str, looks: list[tuple[float, float]]) -> TrialRow:
    course = tuple({"seconds": seconds, METRIC: score} for seconds, score in looks)
    settings = {"objective": objective}
    return replace(ROW, trial=name, backbone=name, settings=settings, course=course, teacher="t")


SLOW = row("slow", "pgsb", [(20.0, 0.8), (40.0, 0.9)])
FAST = row("fast", "regression", [(12.0, 0.7), (30.0, 0.85)])


def test_scores_are_interpolated_between_evaluations() -> None:
    assert score_after(SLOW, METRIC, 30) == pytest.approx(0.85)
    assert score_after(SLOW, METRIC, 10) is None
    assert score_after(SLOW, METRIC, 99) == 0.9


def test_part_has_the_score_after_the_shortest_training() -> None:
    page = "".join(time_parts([SLOW, FAST]))
    for cells in (("slow", "1", "40", "0.900", "0.850"), ("fast", "1", "30", "0.850", "0.850")):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert page.count("data:image/png") == 1


def test_one_objective_has_no_part() -> None:
    assert time_parts([SLOW, replace(FAST, settings={"objective": "pgsb"})]) == []
    assert time_parts([SLOW, replace(FAST, course=())]) == []


def test_rows_keep_their_course() -> None:
    again = TrialRow.from_json(SLOW.to_json())
    assert again == SLOW and np.isclose(again.course[1]["seconds"], 40)
    older = {key: value for key, value in SLOW.to_json().items() if key not in ("course", "teacher")}
    assert TrialRow.from_json(older).course == ()
