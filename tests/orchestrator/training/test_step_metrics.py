"""Reports of a training's metrics: when they are due."""

from typing import Literal

import pytest

from orchestrator.training.step_metrics import StepMetrics
from workloads.settings.objectives.pgsb import PGSBSettings


@pytest.mark.parametrize(("student_steps", "expected"), [(1, [1, 3, 6, 9]), (2, [1, 4, 8]), (4, [1, 4, 8])])
def test_reports_are_means_over_whole_rounds_of_a_students_steps(
    student_steps: Literal[1, 2, 4], expected: list[int]
) -> None:
    metrics = StepMetrics(PGSBSettings(steps=100, student_steps=student_steps), 1, ["student_loss"])
    assert [step for step in range(1, 11) if metrics.due(step)] == expected
