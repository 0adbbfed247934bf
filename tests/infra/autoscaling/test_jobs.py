"""`ray job submit`, followed, stopped and submitted again; what it carries, and how its end is told."""

import json
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.infra.autoscaling.conftest import Stage
from tests.infra.autoscaling.jobs import OVER, copy_of_the_repository
from tests.support.chaos import CHECKPOINT_EVERY, recovery, verdict, wait_until

LIMIT = 100 * 2**20
"""Bytes of a working directory that Ray's jobs server takes."""
JUNK = (
    "results/mlflow.db",
    "pictures/a.png",
    ".git/objects/pack",
    "orchestrator/__pycache__/run.pyc",
    "build/x",
)
LEFT_HERE = ("tests/", "infra/", ".ci/", "sweeps/stability/", "sweeps/edge/")
"""Of what git keeps: nothing that a sweep reads."""


def test_the_working_directory_is_small_and_holds_no_junk(tmp_path: Path) -> None:
    code = copy_of_the_repository(tmp_path / "code")
    kept = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    for name in JUNK:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(b"junk")
    package = tmp_path / "package.zip"
    create_package(str(code), package, include_gitignore=True)
    carried = _names(package)
    assert carried == {name for name in kept if not name.startswith(LEFT_HERE)}
    assert {"sweeps/miniature.yaml", "orchestrator/run.py", "workloads/training/step.py"} <= carried
    assert package.stat().st_size < LIMIT / 3, package.stat().st_size


def _names(package: Path) -> set[str]:
    from zipfile import ZipFile

    with ZipFile(package) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


@pytest.mark.cluster
@pytest.mark.slow
def test_a_stopped_job_is_resumable_and_finished_trials_are_kept(stage: Stage) -> None:
    overrides = ("train.seed={values: [0, 1]}", "resources.max_concurrent_trials=1")
    launch = stage.submit("first", *overrides)
    stage.sweep.wait_for_step(CHECKPOINT_EVERY, launch)
    wait_until(lambda: _steps(stage, "s1") > CHECKPOINT_EVERY, 180)
    stage.jobs.stop("first")
    wait_until(lambda: stage.jobs.about("first")["status"] in OVER, 60)
    assert stage.jobs.about("first")["status"] == "STOPPED"
    assert launch.end(30) == 0, "Ray's client used to be content with a stopped job"
    assert "interrupted: 1 trainings write a checkpoint" in launch.output
    stopped = stage.sweep.steps()[-1][0]
    (finished,) = stage.sweep.results()

    again = stage.submit("second", *overrides)
    assert again.end() == 0, again.output
    assert "1 trials have a result already and are kept" in again.output
    assert finished in stage.sweep.results(), "a finished trial was done again"
    verdict(stage.sweep, trials=2, extra_steps=True)
    _, repeated = recovery(stage.sweep, stopped, "s1")
    assert repeated <= 1, "it did not go on from the checkpoint that it wrote when it was stopped"


@pytest.mark.cluster
@pytest.mark.slow
def test_a_failed_trial_is_told_by_exit_status_1(stage: Stage) -> None:
    faults = [{"do": "kill", "step": 2, "trial": "s5"}]
    (stage.sweep.folder / "faults.json").write_text(json.dumps(faults))
    launch = stage.submit("failing", "name=failing", "train.seed=5", "resources.max_failures=0")
    assert launch.end() == 1
    about = stage.jobs.about("failing")
    assert (about["status"], about["driver_exit_code"]) == ("FAILED", 1)
    assert "exit code 1" in about["message"]


def _steps(stage: Stage, trial: str) -> int:
    return max((step for _, step, _, name in stage.sweep.steps() if f"-{trial}-" in name), default=0)
