"""The live table of a launch: rows, bars, and the switch between table and lines."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.results.live_table import MAX_ROWS, trials_table
from orchestrator.results.progress import Progress
from orchestrator.results.record import TrialRecord
from workloads.scorers.score import Score


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def records() -> list[TrialRecord]:
    trials = make_plan(load_sweep(Path("sweeps/miniature.yaml"), ["train.steps=100"])).trials
    done = TrialRecord(trials[0], "run", "finished", step=100, train_seconds=31.0)
    done.scores = [Score("attribute_accuracy", 0.912, 256, 0.9, 0.92, "p")]
    running = TrialRecord(trials[1], "run", "running", step=50, rate=2.5)
    return [done, running, TrialRecord(trials[2], "run")]


def rendered(records: list[TrialRecord], width: int = 140) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width).print(trials_table(records, "attribute_accuracy"))
    return screen.getvalue().splitlines()


def test_running_trials_come_first(records: list[TrialRecord]) -> None:
    _, first, second, third = rendered(records)
    assert first.split()[:2] == [records[1].name, "running"] and "50/100" in first and "20 s left" in first
    assert second.split()[:2] == [records[0].name, "finished"] and second.rstrip().endswith("accuracy 91.2 %")
    assert third.split()[:2] == [records[2].name, "waiting"]


def test_figures_are_whole_on_a_terminal_of_80_columns(records: list[TrialRecord]) -> None:
    """Names and bars give way to them."""
    _, first, second, _ = rendered(records, 80)
    assert all(word in first for word in ("running", " 50/100 ", " 2.50 ", "20 s left"))
    assert all(word in second for word in ("finished", "31 s", "accuracy 91.2 %"))


@pytest.mark.parametrize(("terminal", "lines"), [("xterm", False), ("dumb", True)])
def test_a_terminal_that_cannot_redraw_gets_lines(
    terminal: str, lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Emacs' and some CI systems' are; the table would first appear at the end."""
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys, "stdout", Screen())
    progress = Progress(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), None)  # type: ignore[arg-type]
    assert (progress._table is None) == lines


def test_many_trials_are_counted(records: list[TrialRecord]) -> None:
    assert f"... and {3 * MAX_ROWS - MAX_ROWS} more" in rendered(records * MAX_ROWS)[-1]
