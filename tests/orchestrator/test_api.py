"""The interface for programs: the example of its docstring, as a program runs it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchestrator import api

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.cluster
def test_the_example_runs(tmp_path: Path) -> None:
    """With shorter trainings, one backbone and no second search, in a storage of its own."""
    example = textwrap.dedent(str(api.__doc__).split("\n\n", 1)[1].rsplit("\n\n", 1)[0])
    small = ["train.steps=2", "train.guidance_interval=[1, 5]", "infer=null", "evaluate.samples=8"]
    small += ["backbones=[{name: pixart, model: miniature/pixart, start_timestep: 400}]"]
    program = example.replace('["train.steps=20"]', repr(small)).replace('"results"', repr(str(tmp_path)))
    assert program != example and "launch(plan" in program
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pixart-k1-5-s0" in done.stdout.splitlines()[-1]
    assert (tmp_path / "miniature/report.html").exists()
