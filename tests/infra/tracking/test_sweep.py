"""The miniature sweep against Postgres, MLflow with logins and a bucket, through `ray job submit`.

Two workers a trial; the storage is the bucket; the login is that of sweeps; the database is away for a
while in the middle.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.infra.manifests import REPOSITORY
from tests.infra.tracking.stack import BUCKET, Stack
from tests.infra.tracking.submission import Head, Job
from tests.support.chaos import assert_no_process_left

pytestmark = pytest.mark.cluster
NAME, STEPS = "tracked", 12
SWEEP = f"""name: {NAME}
prompts: {{source: "miniature:32", rows_per_shard: 16}}
backbones: [{{name: pixart, model: miniature/pixart, start_timestep: 700}}]
train:
  steps: {STEPS}
  batch_size: 8
  learning_rate: 1.0e-4
  fake_score_learning_rate: 2.0e-3
  lora: {{rank: 4, alpha: 4, targets: [all]}}
evaluate:
  scorers: [attributes]
  samples: 16
  evaluations: 1
  teacher: {{steps: 2, guidance_scale: 3}}
  sheet_prompts: [a red circle]
resources: {{workers: 2, cpus_per_worker: 0.4, checkpoint_every: 4}}
"""
AWAY_SECONDS = 20
STORAGE = f"s3://{BUCKET}/sweeps"
ORDINARY = {"student_loss", "fake_score_loss", "samples_per_second", "seconds_per_step"}


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[MlflowClient]:
    """With the login of sweeps."""
    login = stack.secrets["mlflow-client"]
    names = {f"MLFLOW_TRACKING_{key.upper()}": value for key, value in login.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        yield MlflowClient(stack.uri)


@pytest.fixture(scope="module")
def head(stack: Stack) -> Iterator[Head]:
    started = Head(stack)
    yield started
    started.end()
    assert_no_process_left()


def submitted(stack: Stack, head: Head, *overrides: str) -> Job:
    """The sweep, as a job."""
    file = stack.folder / "sweep.yaml"
    file.write_text(SWEEP)
    sets = [word for override in overrides for word in ("--set", override)]
    return head.submit("python", "-m", "orchestrator.run", str(file), "--storage", STORAGE, *sets)


def take_the_database_away(stack: Stack, job: Job) -> None:
    """Once a step is recorded, for longer than the driver takes to notice.

    Its lines say so too late: Ray has been seen to hand a job's output on only at the job's end.
    """
    known = "select count(*) from metrics where key = 'student_loss'"
    wait_until(lambda: int(stack.postgres.execute(known, "mlflow")) > 0, job, 500)
    stack.postgres.stop()
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        stack.postgres.start()


def wait_until(done: Callable[[], bool], job: Job, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert job.process.poll() is None and time.monotonic() < deadline, job.output
        time.sleep(0.2)


def trials_of(client: MlflowClient) -> list[Run]:
    found = client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
    return [run for run in found if "mlflow.parentRunId" in run.data.tags]


def check(stack: Stack, client: MlflowClient, trials: int) -> None:
    """What must be in MLflow, the bucket and the registry, and nothing twice."""
    runs, objects = trials_of(client), stack.objects()
    assert len(runs) == trials and {run.info.status for run in runs} == {"FINISHED"}
    parent = client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    for run in runs:
        check_trial(client, run, objects)
    model = client.get_model_version_by_alias(f"{NAME}-pixart", "champion")
    assert model.run_id in {run.info.run_id for run in runs}
    weights = [
        key for key in objects if model.source.rpartition("/")[2] in key and key.endswith("safetensors")
    ]
    assert weights and all(objects[key] > 0 for key in weights)


def check_trial(client: MlflowClient, run: Run, objects: dict[str, int]) -> None:
    """Every step's metrics once, its picture, and its checkpoints."""
    curves = {
        key: [point.step for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    assert curves.keys() >= ORDINARY
    for key in ORDINARY:
        assert sorted(curves[key]) == list(range(1, STEPS + 1)), (key, curves[key])
    assert all(len(steps) == len(set(steps)) for steps in curves.values()), curves
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "handed through by the server"
    own = {key: size for key, size in objects.items() if run.info.run_id in key}
    assert any("images/sheet+step+12" in key and key.endswith(".png") and size for key, size in own.items())
    checkpoint = run.data.tags["checkpoint"]
    assert checkpoint.startswith(f"{STORAGE}/{NAME}/") and checkpoint.endswith(f"step-{STEPS:08d}")
    assert objects[f"{checkpoint.removeprefix(f's3://{BUCKET}/')}/manifest.json"] > 0


def test_one_trial_and_the_database_is_away(stack: Stack, head: Head, client: MlflowClient) -> None:
    job = submitted(stack, head)
    take_the_database_away(stack, job)
    assert job.process.wait(600) == 0, job.output
    assert "tracking: answers again" in job.output and "refused" not in job.output, job.output
    assert "Traceback" not in job.output, job.output
    check(stack, client, trials=1)


def refused(stack: Stack, **environment: str) -> str:
    """The one line of a sweep that is not begun; no Ray is started for it."""
    file = stack.folder / "sweep.yaml"
    file.write_text(SWEEP)
    own = stack.folder / f"storage-{environment['MLFLOW_TRACKING_USERNAME']}"
    command = [sys.executable, "-m", "orchestrator.run", str(file), "--storage", str(own)]
    done = subprocess.run(
        [*command, "--tracking-uri", stack.uri], env={**os.environ, **environment},
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert "starting Ray" not in done.stdout
    return done.stderr


def test_a_wrong_password_is_told_before_anything_starts(stack: Stack) -> None:
    line = refused(stack, MLFLOW_TRACKING_USERNAME="sweeps", MLFLOW_TRACKING_PASSWORD="of yesterday")
    assert f"error: tracking {stack.uri}: refuses the login: set" in line


@pytest.mark.slow
def test_two_trials_and_the_sweep_again(stack: Stack, head: Head, client: MlflowClient) -> None:
    """A second seed joins the finished one; its run, model and files stay as they were."""
    before = {run.info.run_id for run in trials_of(client)}
    job = submitted(stack, head, "train.seed={values: [0, 1, 2]}")
    assert job.process.wait(400) == 0, job.output
    assert "1 trials have a result already and are kept" in job.output
    check(stack, client, trials=3)
    assert before < {run.info.run_id for run in trials_of(client)}
