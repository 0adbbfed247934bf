"""The whole product, as a user runs it: the command, on a real Ray, DeepSpeed and MLflow."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.common.storage import file_digest
from orchestrator.training.checkpoint.manifest import verify

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).parents[2]
SWEEP = """name: e2e
prompts: {source: "miniature:96", rows_per_shard: 32}
backbones:
  - name: pixart
    model: miniature/pixart
    start_timestep: 700
train:
  steps: 12
  batch_size: 8
  ema_decay: 0.9
  fake_score_learning_rate: 2.0e-3
  lora: {rank: 4, alpha: 4, targets: [all]}
  learning_rate: 1.0e-4
evaluate:
  scorers: [attributes, fidelity, {name: clip, weights: miniature/clip}]
  samples: 32
  evaluations: 2
  teacher: {steps: 4, guidance_scale: 3}
  sheet_prompts: [a large red circle, a tiny blue square at the top]
infer:
  attention_guidance:
    - {kind: nasa, strength: {values: [0.5, 1]}}
  scorers: [removal]
  pictures: 4
  pairs:
    - {prompt: a large circle, negative_prompt: red}
    - {prompt: a cross at the top, negative_prompt: large}
search: {metric: clip_plus}
resources: {checkpoint_every: 4}
"""
DIVERGES = "train.learning_rate={values: [1.0e-4, 1.0e+3]}"


def command(storage: Path, *overrides: str) -> list[str]:
    sweep = storage.parent / "sweep.yaml"
    sweep.write_text(SWEEP)
    sets = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "orchestrator.run", str(sweep), "--storage", str(storage), *sets]


def run(storage: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(storage, *overrides), capture_output=True, text=True, cwd=REPOSITORY, timeout=1200
    )


def summary(storage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((storage / "e2e/summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a finished sweep: one trial that learns, one that diverges."""
    storage = tmp_path_factory.mktemp("one") / "results"
    done = run(storage, DIVERGES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 1 finished, 1 collapsed" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout
    assert "orchestrator.generate --model models:/e2e-pixart@champion" in done.stdout
    assert re.search(r"pixart\S+: finished, CLIP\+ -?0\.\d{4}\n", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    return storage


def test_a_trial_that_diverges_is_a_result(one_worker: Path) -> None:
    finished, collapsed = summary(one_worker)["trials"]
    accuracy = next(score for score in finished["scores"] if score["metric"] == "attribute_accuracy")
    assert finished["status"] == "finished" and accuracy["value"] > 0.3
    assert collapsed["status"] == "collapsed"
    assert "non-finite loss" in collapsed["note"] or "pictures vary" in collapsed["note"]
    assert collapsed["model"] == "" and finished["zero_stage"] == 2


def test_mlflow_shows_parent_children_curves_sheets_and_models(one_worker: Path) -> None:
    client = MlflowClient(f"sqlite:///{one_worker}/mlflow.db")
    experiment = client.get_experiment_by_name("e2e")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1 and len(runs) == 3
    parent = parents[0]
    assert parent.info.status == "FINISHED" and parent.data.tags["version.ray"] == "2.60.0"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {
        "comparison.json", "comparison.png", "students.png", "summary.json", "sweep.json", "command.txt",
        "report.html", "map.png", "strengths.json", "negative_prompts",
    }  # fmt: skip
    trial = summary(one_worker)["trials"][0]
    child = client.get_run(trial["run"])
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["guidance_interval"] == "(0.5, 4.0)"
    assert child.inputs.dataset_inputs[0].dataset.digest == summary(one_worker)["prompts"]["digest"]
    steps = [m.step for m in client.get_metric_history(trial["run"], "student_loss")]
    assert steps == sorted(set(steps)) and steps[0] == 1 and steps[-1] == 12
    assert "metrics.`clip_plus`" in experiment.tags["mlflow.sharedViewState.trials"]
    for score in trial["scores"]:
        history = client.get_metric_history(trial["run"], score["metric"])
        assert [m.step for m in history] == [6, 12] and history[-1].value == score["value"]
    assert {score["metric"] for score in trial["scores"]} >= {"attribute_accuracy", "frechet_distance"}
    ranking = next(score for score in trial["scores"] if score["metric"] == "clip_plus")
    assert (trial["metric"], trial["score"]) == ("clip_plus", ranking["value"])
    assert {score["metric"] for score in trial["teacher_scores"]} >= {"precision", "recall"}
    images = [file.path for file in client.list_artifacts(trial["run"], "images")]
    assert any("sheet" in image and image.endswith(".png") for image in images)


def test_checkpoints_are_in_the_runs_artifacts_and_match_their_digest(one_worker: Path) -> None:
    trial = summary(one_worker)["trials"][0]
    checkpoint = Path(trial["checkpoint"])
    client = MlflowClient(f"sqlite:///{one_worker}/mlflow.db")
    assert str(checkpoint).startswith(client.get_run(trial["run"]).info.artifact_uri)
    listed = [file.path for file in client.list_artifacts(trial["run"], "checkpoints")]
    assert f"checkpoints/{checkpoint.name}" in listed
    assert file_digest(checkpoint / "manifest.json") == trial["checkpoint_sha256"]
    manifest = verify(checkpoint)
    assert manifest.progress.step == 12 and manifest.score == trial["score"]
    assert {"student-0000.safetensors", "fake_score-0000.safetensors"} <= manifest.files.keys()
    assert not list(checkpoint.glob("*.pt")), "nothing that is a pickle"


def test_every_student_is_drawn_at_every_strength_and_trained_once(one_worker: Path) -> None:
    found = summary(one_worker)
    finished, collapsed = found["trials"]
    assert found["trainings"] == 2 and found["infer_trials"] == 3 and collapsed["curve"] == []
    assert [(arm["label"], arm["strength"]) for arm in finished["curve"]] == [
        ("none", 0.0), ("nasa", 0.5), ("nasa", 1.0),
    ]  # fmt: skip
    for arm in finished["curve"]:
        scores = {score["metric"]: score for score in arm["scores"]}
        assert scores["negative_rate"]["samples"] == 8 and scores["prompt_accuracy"]["samples"] == 16
    client = MlflowClient(f"sqlite:///{one_worker}/mlflow.db")
    files = {file.path for file in client.list_artifacts(finished["run"])}
    assert files >= {"strengths.json", "strengths.png", "negative_prompts.png", "curve.json"}
    points = client.get_metric_history(finished["run"], "under_nasa.negative_rate")
    assert sorted(point.step for point in points) == [50, 100]
    assert not list((one_worker / "e2e/pictures").glob("*")), "pictures are kept only where asked"
    assert len(list((one_worker / "e2e/measured").glob("*.parquet"))) == 3


def test_the_command_draws_with_the_champion(one_worker: Path, tmp_path: Path) -> None:
    generate = [sys.executable, "-m", "orchestrator.generate", "--out", str(tmp_path / "pictures")]
    generate += ["--tracking-uri", f"sqlite:///{one_worker}/mlflow.db", "--prompt", "a circle"]
    model = ["--model", "models:/e2e-pixart@champion"]
    done = subprocess.run(
        [*generate, *model, "--negative-prompt", "red", "--strength", "1", "--count", "2"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert [re.sub("-[0-9a-f]{6}-", "-", Path(name).name) for name in names] == [
        "a-circle-not-red-0.png",
        "a-circle-not-red-1.png",
    ]
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in names)
    wrong = subprocess.run(
        [*generate, "--model", "models:/e2e-nobody@champion"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and "e2e-nobody" in wrong.stderr


def test_the_student_loads_from_the_registry_in_a_new_process(one_worker: Path, tmp_path: Path) -> None:
    """By its alias, with the code that was stored with it, and with a card and a default strength."""
    code = (
        "import mlflow, pandas as pd, sys, pathlib\n"
        f"mlflow.set_tracking_uri('sqlite:///{one_worker}/mlflow.db')\n"
        "student = mlflow.pyfunc.load_model('models:/e2e-pixart@champion')\n"
        "rows = [('a large circle', '', 1, 1.0), ('a large circle', '', 1, 0.5),\n"
        "        ('a large circle', 'red', 1, 1.0), ('a large circle', 'red', 1, 0.0)]\n"
        "names = ['prompt', 'negative_prompt', 'seed', 'strength']\n"
        "plain, same, guided, off = student.predict(pd.DataFrame(rows, columns=names))['png']\n"
        "assert plain == same == off != guided and plain.startswith(b'\\x89PNG')\n"
        "short = pd.DataFrame({'prompt': ['a large circle'], 'seed': [1]})\n"
        "assert student.predict(short)['png'][0] == plain\n"
        "import workloads\n"
        f"assert 'orchestrator' not in sys.modules and '{one_worker}' in workloads.__file__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_same_command_again_keeps_what_is_finished(one_worker: Path) -> None:
    before = summary(one_worker)
    done = run(one_worker, DIVERGES)
    assert done.returncode == 0 and "2 trials have a result already and are kept" in done.stdout
    assert "searching" not in done.stdout
    assert summary(one_worker)["trials"] == before["trials"]
    client = MlflowClient(f"sqlite:///{one_worker}/mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("e2e").experiment_id])) == 3
    statuses = {client.get_run(trial["run"]).info.status for trial in before["trials"]}
    assert statuses == {"FINISHED"}


def test_a_new_strength_costs_no_training(one_worker: Path) -> None:
    """Last, since it adds a launch to the storage that the others look at."""
    before = summary(one_worker)["trials"][0]
    done = run(one_worker, DIVERGES, "infer.attention_guidance.0.strength={values: [0.5, 1, 2]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "searching: 0 trainings" in done.stdout
    found = summary(one_worker)["trials"][0]
    assert [arm["strength"] for arm in found["curve"]] == [0.0, 0.5, 1.0, 2.0]
    assert found["curve"][:3] == before["curve"] and found["checkpoint"] == before["checkpoint"]
    assert found["model"] != before["model"]
