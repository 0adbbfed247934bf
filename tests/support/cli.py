"""Helpers for tests of the command: a valid sweep file, and a check of its refusals."""

import re
from pathlib import Path

import pytest

from orchestrator.run import main

MINIMAL = """name: tiny
prompts: {source: "miniature:64"}
backbones:
  - {name: pixart, model: miniature/pixart}
train:
  steps: 10
evaluate:
  sheet_prompts: [a circle]
"""
SWEEP = (
    MINIMAL
    + """infer:
  attention_guidance: [{kind: nasa, strength: 1}]
  scorers: [removal]
  pairs: [{prompt: a circle, negative_prompt: red}]
search: {samples: 2}
"""
)


def refused(capsys: pytest.CaptureFixture[str], pattern: str, *arguments: str) -> None:
    """Check that the command exits with 2 and one line that matches `pattern`."""
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown.err
    assert "starting Ray" not in shown.out and "Traceback" not in shown.err
    assert re.search(pattern, shown.err), shown.err


def written(folder: Path, text: str = SWEEP) -> str:
    """Write a sweep file with this text and return its path."""
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)
