"""The table of quality and time by the student's steps."""

from dataclasses import replace

from orchestrator.reporting.steps_table import steps_parts
from orchestrator.reporting.sweep_report import sweep_report
from tests.orchestrator.reporting.test_sweep_report import ROW, SCORE, summary

OF_FOUR = {"student_steps": 4}
BETTER = replace(SCORE, value=0.97)


def test_students_of_different_steps_have_a_table() -> None:
    rows = [
        replace(ROW, settings={"student_steps": 1}, seconds_per_picture=0.002),
        replace(ROW, settings=OF_FOUR, scores=(BETTER,), seconds_per_picture=0.006),
        replace(ROW, settings=OF_FOUR, scores=(replace(BETTER, value=0.95),), seconds_per_picture=0.010),
        replace(ROW, settings=OF_FOUR, scores=(), status="failed"),
    ]
    _, _, page = steps_parts(rows)
    lines = [line.replace("</td>", "").split("<td>")[1:] for line in page.split("<tr>")[2:]]
    cells = [[cell.partition("</tr>")[0] for cell in line] for line in lines]
    assert cells == [
        ["unet", "teacher", "", "0.900", ""],
        ["unet", "1", "1", "0.900", "2.00"],
        ["unet", "4", "2", "0.960", "8.00"],
    ]


def test_there_is_none_where_all_students_take_as_many_steps() -> None:
    other = replace(ROW, backbone="pixart", settings=OF_FOUR)
    assert not steps_parts([ROW, replace(ROW, seed=1), other])
    assert "student's steps" not in sweep_report(summary(ROW), {}, {})


def test_results_of_earlier_versions_are_of_one_step() -> None:
    assert ROW.student_steps == 1 and ROW.seconds_per_picture is None
