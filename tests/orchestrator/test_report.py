"""The command `orchestrator.report` on a real MLflow that holds trainings made up."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.common.storage import Store
from orchestrator.report import main
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import recorded_trainings

SCALES = ("(1.0, 5.0)", "(3.0, 3.0)")
BACKBONES = ("pixart", "unet-v")


def record(folder: Path, seeds: int, name: str = "made-up") -> tuple[str, Tracker]:
    """A sweep of two scales on two backbones, as a launch records it; the last one collapses."""
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = Tracker(uri, name, Store(str(folder / "results")))
    tracker.start_sweep(name, "somewhere", {}, None)
    for place, backbone in enumerate(BACKBONES):
        for arm, scale in enumerate(SCALES):
            for seed in range(seeds):
                params = {"backbone": backbone, "guidance_interval": scale, "seed": seed}
                run, _ = tracker.start_trial(f"{backbone}-{arm}-{seed}", f"{place}{arm}{seed}", params, {})
                for look in (1, 2, 3):
                    accuracy = 0.2 * look + 0.1 * arm + 0.01 * seed
                    scores = {"attribute_accuracy": accuracy, "frechet_distance": 90 - 10 * look + seed}
                    tracker.log_metrics(run, 30 * look, {**scores, "student_loss": 1.0})
                collapsed = place and arm and seed == seeds - 1
                tracker.set_tags(run, {"status": "collapsed" if collapsed else "finished"})
                tracker.finish(run, "FINISHED")
    return uri, tracker


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it refuses: one line."""
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_report_is_written_from_mlflow_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, tracker = record(tmp_path, 3)
    tracker.close("FINISHED")
    out = tmp_path / "out"
    assert main(["--experiment", "made-up", "--tracking-uri", uri, "--out", str(out)]) == 0
    assert "12 trainings" in capsys.readouterr().out
    found = json.loads((out / "report.json").read_text())
    assert found["parent_run"] == tracker.parent and found["status"] == {"finished": 11, "collapsed": 1}
    cell = found["cells"][1]
    assert (cell["backbone"], cell["arm"]) == ("unet-v", "guidance_interval (1.0, 5.0)")
    accuracy = cell["metrics"]["attribute_accuracy"]
    assert accuracy["values"] == pytest.approx({"0": 0.6, "1": 0.61, "2": 0.62})
    assert accuracy["histories"]["1"] == pytest.approx([0.21, 0.41, 0.61])
    assert found["rankings"]["attribute_accuracy"]["arms"][0]["best_probability"] == 1
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"]?(http|//|/)", page) and "<script" not in page
    # Two metrics, each over seeds and along training.
    assert page.count("data:image/png;base64,") == 4
    assert "0.610 (0.585 to 0.635; 0.0100; 3)" in page and "1 of 3 (6 to 79 %)" in page


def test_a_launch_reads_what_it_has_just_recorded(tmp_path: Path) -> None:
    """All that waits is written first: nothing was closed, nothing waited for here."""
    _, tracker = record(tmp_path, 2)
    trainings = recorded_trainings(tracker)
    tracker.close("FINISHED")
    assert [len(t.histories["frechet_distance"]) for t in trainings] == [3] * 8
    assert [t.status for t in trainings] == ["finished"] * 7 + ["collapsed"]


def test_the_newest_of_two_sweeps_is_read(tmp_path: Path) -> None:
    uri, tracker = record(tmp_path, 2)
    tracker.start_sweep("made-up", "elsewhere", {}, None)
    run, _ = tracker.start_trial("t", "d", {"backbone": "pixart", "seed": 0}, {"status": "interrupted"})
    tracker.close("KILLED")
    assert run
    assert main(["--experiment", "made-up", "--tracking-uri", uri, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["status"] == {"not ended": 1} and found["rankings"] == {}


def test_one_seed_has_a_report_too(tmp_path: Path) -> None:
    uri, tracker = record(tmp_path, 1)
    tracker.close("FINISHED")
    assert main(["--experiment", "made-up", "--tracking-uri", uri, "--out", str(tmp_path)]) == 0
    assert "One seed of every arm" in (tmp_path / "report.html").read_text()


def test_mistakes_are_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    assert "results/mlflow.db: the database does not exist" in told(capsys, "--experiment", "x", "--out", "o")
    uri, tracker = record(tmp_path, 1)
    tracker.close("FINISHED")
    client = MlflowClient(uri)
    client.create_experiment("empty")
    client.delete_experiment(client.create_experiment("gone"))
    at = ("--tracking-uri", uri, "--out")
    assert "'madeup' " in (line := told(capsys, "--experiment", "madeup", *at, "o")) and "'made-up'" in line
    assert "was deleted" in told(capsys, "--experiment", "gone", *at, "o")
    assert "contains no training" in told(capsys, "--experiment", "empty", *at, "o")
    assert "--out mlflow.db: cannot be written" in told(capsys, "--experiment", "made-up", *at, "mlflow.db")
    nobody = ("--tracking-uri", "http://127.0.0.1:9", "--out", "o")
    assert "MLflow does not answer" in told(capsys, "--experiment", "x", *nobody)
    assert not Path("o").exists()


def test_the_command_teaches_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.report", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("--experiment", "--tracking-uri", "--out", "report.json", "exit status"):
        assert word in done.stdout
