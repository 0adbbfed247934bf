"""Pods come from zero for the trials that can use them, one is taken away mid-trial, all go when idle."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.infra.autoscaling.conftest import Stage, staged
from tests.infra.autoscaling.figure import keep
from tests.infra.autoscaling.machine import ray_cluster
from tests.infra.manifests import REPOSITORY
from tests.support.chaos import CHECKPOINT_EVERY, find_process, recovery, verdict, wait_until

pytestmark = pytest.mark.cluster
PREPARING = 2
"""GPUs asked for at once before the search: to draw with the teacher, and to encode prompts."""
TOO_MUCH = "resources.cpus_per_worker=8"


def test_a_trial_that_no_group_holds_is_refused(stage: Stage, tmp_path: Path) -> None:
    """In a line with the exit status 2, by `--plan` as at the start; no pod comes for it."""
    launch = stage.submit("refused", TOO_MUCH)
    launch.end(300)
    about, log = stage.jobs.about("refused"), stage.jobs.log("refused")
    assert (about["status"], about["driver_exit_code"]) == ("FAILED", 2), launch.output
    (told,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "8 CPUs" in told and "gpu-spot: 4 x 2 CPUs and 1 GPUs" in told
    assert "Traceback" not in log
    assert not stage.cluster.patches and not stage.cluster.counts()

    manifest = tmp_path / "cluster.yaml"
    manifest.write_text(yaml.safe_dump(ray_cluster()))
    command = [sys.executable, "-m", "orchestrator.run", str(stage.code / "sweeps/chaos.yaml"), "--plan"]
    command += ["--cluster", str(manifest), "--set", "resources.workers=1", "--set", TOO_MUCH]
    command += ["--set", "resources.gpus_per_worker=1"]
    planned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (planned.returncode, planned.stderr.strip()) == (2, told)


@pytest.mark.slow
def test_one_trial_from_zero_through_a_lost_pod_and_back_to_zero(
    stage: Stage, note: Callable[..., None]
) -> None:
    _from_zero_to_zero(stage, 1, note)


@pytest.mark.slow
def test_two_trials_from_zero_through_a_lost_pod_and_back_to_zero(
    tmp_path: Path, note: Callable[..., None]
) -> None:
    with staged(tmp_path) as stage:
        marks = _from_zero_to_zero(stage, 2, note)
        keep("two trials at once, a spot pod killed", stage.cluster.history, marks)


def _from_zero_to_zero(stage: Stage, trials: int, note: Callable[..., None]) -> dict[str, float]:
    """The whole run; what was when."""
    marks = {"submitted": time.time()}
    launch = stage.submit("whole", f"train.seed={{values: {list(range(trials))}}}")
    stage.sweep.wait_for_step(1, launch, seconds=300)
    marks["first step"] = stage.sweep.steps()[0][0]
    assert f"searching: {trials} trainings, {trials} at once" in launch.output, "the log is not followed"

    wait_until(lambda: _behind(stage, trials) > CHECKPOINT_EVERY, 180)
    worker = find_process("ray::RayTrainWorker")
    assert worker is not None
    needed = max(trials, PREPARING)
    assert stage.most("gpu-spot") == needed, "as many as can be used, and no more"
    lost = stage.cluster.pod_of(worker.pid)
    lost.kill()
    marks["pod killed"] = struck = time.time()
    assert launch.end() == 0, launch.output
    marks["last step"] = stage.sweep.steps()[-1][0]
    marks["zero pods"] = stage.wait_for_zero()

    # What was killed asks for its node still, for a while, beside what took its place.
    assert needed <= stage.most("gpu-spot") <= needed + 1
    assert lost.group == "gpu-spot" and stage.most("gpu-on-demand") == 0
    assert stage.jobs.about("whole")["driver_exit_code"] == 0
    verdict(stage.sweep, trials=trials)
    names = {trial for _, _, _, trial in stage.sweep.steps()}
    seconds, again = max(recovery(stage.sweep, struck, name) for name in names)
    assert again < CHECKPOINT_EVERY, "it did not go on from its checkpoint"
    note(
        trials=trials,
        to_first_step=marks["first step"] - marks["submitted"],
        most_spot_pods=stage.most("gpu-spot"),
        most_cpu_pods=stage.most("cpu"),
        recovered=seconds,
        steps_again=again,
        to_zero=marks["zero pods"] - marks["last step"],
        whole=marks["zero pods"] - marks["submitted"],
    )
    return marks


def _behind(stage: Stage, trials: int) -> int:
    """The step of the trial that is behind the others."""
    steps: dict[str, int] = {}
    for _, step, _, trial in stage.sweep.steps():
        steps[trial] = max(step, steps.get(trial, 0))
    return min(steps.values()) if len(steps) == trials else 0
