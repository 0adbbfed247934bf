"""Results that were moved or copied, with the MLflow on SQLite that is embedded in them."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.relocate import main
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import read_sweep
from orchestrator.tracking.registry import fetch_student

FILES = {"a.txt": "first", "checkpoints/b.txt": "second"}


def recorded(root: Path, scheme: str = "") -> str:
    """Record a sweep with one finished trial in a storage; return the trial's run."""
    store = Store(f"{scheme}{root}")
    tracker = Tracker(f"sqlite:///{root}/mlflow.db", "x", store)
    parent = tracker.start_sweep("x", store.root, {}, None)
    tracker.log_text(parent, "y", "command.txt")
    run, artifacts = tracker.start_trial("t", "d", {"backbone": "b", "seed": 0}, {})
    for file, text in FILES.items():
        tracker.log_text(run, text, file)
    tracker.set_tags(run, {"checkpoint": f"{artifacts}/checkpoints", "note": f"kept at {store.root}"})
    tracker.close("FINISHED")
    store.write_json("x/results/d.json", {"run": run, "checkpoint": f"{artifacts}/checkpoints"})
    return run


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["plain", "with space", "o'brien", "100%_é"])
@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_relocate_adopts_the_new_place(
    name: str, how: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / name, tmp_path / "elsewhere" / name
    new.parent.mkdir()
    run = recorded(old)
    how(old, new)  # type: ignore[operator]
    before = snapshot(old)
    uri = f"sqlite:///{new}/mlflow.db"
    for refused in (
        lambda: Tracker(uri, "x", Store(str(new))),
        lambda: read_sweep(uri, "x"),
        lambda: fetch_student("models:/x-b/1", uri, tmp_path),
    ):
        with pytest.raises(UserError, match=r"was recorded at .*: run python -m orchestrator\.relocate"):
            refused()
    assert main([str(new)]) == 0 and "recorded here now" in capsys.readouterr().out
    assert snapshot(old) == before
    client = MlflowClient(uri)
    assert {f: Path(client.download_artifacts(run, f)).read_text() for f in FILES} == FILES
    tags = client.get_run(run).data.tags
    assert Path(tags["checkpoint"]) == new / "artifacts" / run / "artifacts/checkpoints"
    assert tags["note"] == f"kept at {old}"
    assert Store(str(new)).read_json("x/results/d.json")["checkpoint"] == tags["checkpoint"]
    parent, trainings = read_sweep(uri, "x")
    tracker = Tracker(uri, "x", Store(str(new)))
    assert tracker.start_sweep("x", str(new), {}, None) == parent and len(trainings) == 1
    tracker.close("FINISHED")
    assert main([str(new)]) == 0 and "nothing to do" in capsys.readouterr().out


def test_a_database_that_also_serves_another_storage_is_left_alone(tmp_path: Path) -> None:
    """Its artifacts lie elsewhere on purpose."""
    recorded(tmp_path / "first")
    uri, other = f"sqlite:///{tmp_path}/first/mlflow.db", Store(str(tmp_path / "second"))
    tracker = Tracker(uri, "y", other)
    tracker.log_text(tracker.start_sweep("y", other.root, {}, None), "z", "command.txt")
    tracker.close("FINISHED")
    Tracker(uri, "y", other).close("FINISHED")
    assert main([str(tmp_path / "first")]) == 0


def test_a_storage_named_by_its_uri_is_adopted(tmp_path: Path) -> None:
    run = recorded(tmp_path / "old", "file://")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert main([f"file://{tmp_path}/new"]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert Path(client.download_artifacts(run, "a.txt")).read_text() == "first"
    kept = Store(f"{tmp_path}/new").read_json("x/results/d.json")["checkpoint"]
    assert (
        kept
        == client.get_run(run).data.tags["checkpoint"]
        == f"file://{tmp_path}/new/artifacts/{run}/artifacts/checkpoints"
    )


def test_a_link_to_the_storage_is_the_storage(tmp_path: Path) -> None:
    recorded(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_sweep(f"sqlite:///{tmp_path}/link/mlflow.db", "x")[1]


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "give a folder of results" in capsys.readouterr().err


def test_a_database_in_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    monkeypatch.setattr("orchestrator.tracking.relocation.BUSY_SECONDS", 0.1)
    with sqlite3.connect(tmp_path / "new/mlflow.db") as connection:
        connection.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(
            "orchestrator.tracking.relocation.recorded_place", lambda store: str(tmp_path / "old")
        )
        assert main([str(tmp_path / "new")]) == 2
        connection.rollback()
    assert "end the programs that use it" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([str(tmp_path / "new")]) == 0
