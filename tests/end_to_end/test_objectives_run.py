"""BOOT, SwiftBrush v2 and two steps through the whole product: a real Ray, DeepSpeed and MLflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from orchestrator.tracking.registry import fetch_student
from orchestrator.training.checkpoint.manifest import verify
from workloads.students.sampler import Generator, load_student

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
SWEEP = """name: arms
prompts: {source: "miniature:64", rows_per_shard: 32}
backbones:
  - {name: boot, model: miniature/pixart, start_timestep: 400, train: {objective: boot}}
  - name: v2
    model: miniature/pixart
    start_timestep: 400
    train:
      objective: swiftbrush_v2
      clip: {model: miniature/clip, every: 2}
      student_lora: {rank: 4, alpha: 4, targets: [all]}
  - {name: two, model: miniature/pixart, start_timestep: 400, train: {student_steps: 2}}
  - name: scales
    model: miniature/pixart
    start_timestep: 400
    train: {guidance_input: true, guided: teacher, guidance_interval: [1, 7.5]}
train: {steps: 6, batch_size: 8, guidance_interval: [3, 3], lora: {rank: 4, alpha: 4, targets: [all]},
        learning_rate: 1.0e-4, fake_score_learning_rate: 2.0e-3, ema_decay: 0.9}
evaluate: {scorers: [attributes], samples: 16, evaluations: 1, teacher: {steps: 2, guidance_scale: 3},
           sheet_prompts: [a large red circle]}
infer: {guidance_scale: {values: [1, 7.5]}}
resources: {checkpoint_every: 3}
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished sweep."""
    folder = tmp_path_factory.mktemp("arms")
    (folder / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, "-m", "orchestrator.run", str(folder / "sweep.yaml"), "--storage"]
    done = subprocess.run(
        [*command, str(folder / "results")], capture_output=True, text=True, cwd=REPOSITORY, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


def trials(storage: Path) -> dict[str, Any]:
    """By backbone."""
    found = json.loads((storage / "arms/summary.json").read_text())["trials"]
    return {trial["backbone"]: trial for trial in found}


def test_both_are_trained_and_told_by_their_own_losses(storage: Path) -> None:
    client, found = MlflowClient(f"sqlite:///{storage}/mlflow.db"), trials(storage)
    own = {
        "boot": {"bootstrap_loss", "boundary_loss"},
        "v2": {"fake_score_loss", "score_gap", "clip_loss"},
    }
    for name, losses in own.items():
        assert found[name]["status"] == "finished" and found[name]["zero_stage"] == 2
        run = client.get_run(found[name]["run"])
        every = {"student_loss", "latent_spread", "seconds_per_step", *losses}
        assert every <= run.data.metrics.keys()
        other = set().union(*(those for arm, those in own.items() if arm != name))
        assert not other & run.data.metrics.keys() and "progress" not in run.data.metrics
        assert [m.step for m in client.get_metric_history(run.info.run_id, "student_loss")] == [*range(1, 7)]
    assert client.get_run(found["boot"]["run"]).data.params["objective"] == "boot"
    assert client.get_run(found["v2"]["run"]).data.params["clip.model"] == "miniature/clip"


def test_checkpoints_hold_the_networks_that_there_are(storage: Path) -> None:
    for name, networks in (("boot", {"student"}), ("v2", {"student", "fake_score"})):
        files = verify(Path(trials(storage)[name]["checkpoint"])).files
        found = {file.split("-")[0] for file in files if file.endswith(".safetensors")}
        assert found == {*networks, "random", "average"}


def test_only_who_has_a_clip_loss_has_prompts_read_by_clip(storage: Path) -> None:
    folders = {
        path.parent for path in storage.glob("prompts/*/*/000000.parquet") if path.parent.name != "text"
    }
    columns = [pq.read_schema(folder / "000000.parquet").names for folder in folders]
    assert sorted("more.clip_texts" in names for names in columns) == [False, True]


@pytest.mark.parametrize("name", ["boot", "v2", "two"])
def test_students_draw_as_all_do(storage: Path, name: str) -> None:
    folder = storage / "arms/trials" / trials(storage)[name]["digest"] / "student"
    assert Generator(folder).draw("a red circle", [0, 1]).shape == (2, 3, 16, 16)


def test_a_student_of_two_steps_says_so(storage: Path) -> None:
    trial = trials(storage)["two"]
    assert trial["settings"]["student_steps"] == 2 and "-2steps-" in trial["trial"]
    run = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_run(trial["run"])
    assert run.data.params["student_steps"] == "2"
    assert 0 < trial["seconds_per_picture"] == run.data.metrics["seconds_per_picture"] < 10
    folder = storage / "arms/trials" / trial["digest"] / "student"
    card = (folder / "README.md").read_text()
    assert "num_inference_steps=2" in card and "2 calls of the network a picture" in card
    assert load_student(str(folder)).student_steps == 2


def test_the_best_scale_becomes_the_default(storage: Path, tmp_path: Path) -> None:
    """The student is drawn and scored at each scale, and stock pipelines draw at the best."""
    found = trials(storage)["scales"]
    assert [arm["scale"] for arm in found["curve"]] == [1, 7.5]
    accuracies = [arm["at_scale"][0]["value"] for arm in found["curve"]]
    best = found["best"]["scale"]
    assert max(accuracies) == dict(zip((1, 7.5), accuracies, strict=True))[best] == found["score"]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    artifacts = {artifact.path for artifact in client.list_artifacts(found["run"])}
    assert {"scales.png", "scales_sheet.png"} <= artifacts
    assert client.get_run(found["run"]).data.tags["best_scale"] == f"{best:g}"
    folder = fetch_student(found["model"], f"sqlite:///{storage}/mlflow.db", tmp_path)
    generator = Generator(folder)
    assert generator.scales is not None and generator.scales.default == generator.scales.neutral == best
    card = (folder / "README.md").read_text()
    assert f"reads its guidance scale, from 1 to 7.5; the default is {best:.3g}" in card
    assert f"The stock pipeline draws at {best:.3g}" in card
    assert not trials(storage)["two"]["curve"], "others are drawn as they are"
    page = (storage / "arms/report.html").read_text()
    assert "Students by guidance scale" in page
