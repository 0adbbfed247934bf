"""Training groups with a share of a GPU run at the same time, on a real Ray that counts one GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import INJECT, REPOSITORY

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings, which are over."""
    folder = tmp_path_factory.mktemp("shared")
    # CHAOS: without a GPU the groups talk over gloo.
    environment = {**os.environ, "CHAOS": str(folder), "PYTHONPATH": f"{INJECT}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "tests.support.shared_gpu", str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder


def trainings(root: Path, share: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (root / share).glob("*.json")]


def most_at_once(found: list[dict[str, Any]]) -> int:
    times: list[tuple[float, float]] = [each["time"] for each in found]
    return max(sum(start <= now < end for start, end in times) for now, _ in times)


@pytest.mark.parametrize(("share", "count", "together"), [("0.25", 4, 4), ("0.5", 3, 2)])
def test_trainings_share_a_gpu(root: Path, share: str, count: int, together: int) -> None:
    """Four quarters at once; of three halves two, and the third after one of them."""
    found = trainings(root, share)
    assert len(found) == count
    assert most_at_once(found) == together
    assert {(tuple(each["gpus"]), each["share"]) for each in found} == {(("0",), float(share))}
