"""Lint, format and types of the whole project, and what the README promises to type."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_readmes_test_command() -> None:
    command = "pip install --quiet '.[dev]' && python -m pytest"
    assert command in (REPOSITORY / ".ci/run").read_text()
    assert command in (REPOSITORY / "README.md").read_text()


def test_the_command_teaches_itself() -> None:
    command = [sys.executable, "-m", "orchestrator.run", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("--plan", "--set", "--tracking-uri", "--storage", "exit status", "sweeps/miniature.yaml"):
        assert word in done.stdout
