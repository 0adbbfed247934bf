"""A results folder and an MLflow database that commit 6059975 left are resumed by the present version."""

import json
import re
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.cluster
FIXTURE = Path(__file__).parent / "old_results"
REPOSITORY = Path(__file__).parents[2]
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text())
RENAMED = {
    "times": "evaluations",
    "trials_at_once": "max_concurrent_trials",
    "checkpoints_kept": "keep_checkpoints",
}
"""Settings of the old sweep file that have another name now."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked results, with the recorded absolute path replaced by that of this folder."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURE / "old_results.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    prefix = re.compile(re.escape(EXPECTED["recorded_prefix"]) + r"(?![\w.-])")

    def moved(text: str) -> str:
        return prefix.sub(str(folder), text)

    rewrite_database(folder / "results/mlflow.db", moved)
    for path in (path for path in folder.rglob("*") if path.suffix == ".json" or path.name == "MLmodel"):
        path.write_text(moved(path.read_text()))
    return folder


def rewrite_database(database: Path, moved: Callable[[str], str]) -> None:
    """Apply `moved` to all text in all tables."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                query = f'SELECT rowid, "{column}" FROM "{table}" WHERE typeof("{column}") = \'text\''
                rows = connection.execute(query).fetchall()
                changed = [(moved(text), row) for row, text in rows if moved(text) != text]
                connection.executemany(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', changed)


def plan(folder: Path) -> "subprocess.CompletedProcess[str]":
    return launch(folder, "--plan")


def launch(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.run", "sweep.yaml", *options],
        cwd=folder, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def test_old_setting_names_are_answered_with_the_new_ones(folder: Path) -> None:
    """One line for each, in the order of the file."""
    sweep = folder / "sweep.yaml"
    answered = set()
    while (refused := plan(folder)).returncode == 2:
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
        (old,) = [
            old for old, new in RENAMED.items() if f".{old}: this setting is called {new!r}" in refused.stderr
        ]
        sweep.write_text(re.sub(rf"\b{old}:", f"{RENAMED[old]}:", sweep.read_text()))
        answered.add(old)
    assert refused.returncode == 0 and answered == set(RENAMED), refused.stderr


def test_finished_trials_stay_and_interrupted_ones_resume(folder: Path) -> None:
    """Runs after the sweep file has the new names."""
    finished, interrupted = EXPECTED["finished"], EXPECTED["interrupted"]
    done = launch(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials have a result already and are kept" in done.stdout
    step = interrupted["newest_checkpoint_step"]
    assert f"{interrupted['name']}: resumes after step {step}" in done.stdout
    summary = json.loads((folder / "results/old/summary.json").read_text())
    kept, resumed = summary["trials"]
    assert (
        summary["launch"] == EXPECTED["launch"]
        and summary["tracking"]["parent_run"] == EXPECTED["parent_run"]
    )
    assert (kept["digest"], kept["run"], kept["model"]) == tuple(
        finished[key] for key in ("digest", "run", "model")
    )
    assert {score["metric"]: score["value"] for score in kept["scores"]} == finished["scores"]
    assert [f"{arm['label']} {arm['strength']:g}" for arm in kept["curve"]] == list(finished["curve"])
    assert (resumed["digest"], resumed["run"]) == (interrupted["digest"], interrupted["run"])
    assert resumed["status"] == "finished" and resumed["model"]
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    for trial in (kept, resumed):
        steps = [metric.step for metric in client.get_metric_history(trial["run"], "student_loss")]
        assert steps == sorted(set(steps)) and steps[-1] == interrupted["steps"], "each step is recorded once"
        assert client.get_run(trial["run"]).info.status == "FINISHED"
