"""Records that somebody deleted, renamed or restored on MLflow's pages between two launches."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.common.errors import UnfinishedError, UserError
from orchestrator.results.ledger import recorded_run
from orchestrator.results.students import Students, TeacherReferences
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import read_sweep
from tests.orchestrator.results.test_ledger import PROMPTS, Launch


def finished(folder: Path) -> tuple[Launch, MlflowClient, str]:
    """Record a finished trial; return its launch, which is over, and its run."""
    launch = Launch(folder)
    job = launch.start()
    launch.finish(job)
    launch.tracker.close("FINISHED")
    return launch, MlflowClient(launch.uri), launch.ledger.records[job.trial.digest].run


def kept_by(launch: Launch) -> None:
    """Restore the first trial in another launch, which ends then."""
    assert launch.ledger.restore(launch.plan.trials[0], True)
    launch.tracker.close("FINISHED")


def test_a_deleted_parent_is_replaced_and_gets_the_kept_trials(tmp_path: Path) -> None:
    launch, client, run = finished(tmp_path)
    client.delete_run(launch.tracker.parent)
    again = Launch(tmp_path)
    assert again.tracker.parent != launch.tracker.parent
    kept_by(again)
    assert client.get_run(run).data.tags["mlflow.parentRunId"] == again.tracker.parent
    parent, trainings = read_sweep(launch.uri, "tiny")
    assert (parent, len(trainings)) == (again.tracker.parent, 1)
    client.restore_run(launch.tracker.parent)
    assert read_sweep(launch.uri, "tiny")[0] == again.tracker.parent
    kept_by(Launch(tmp_path))
    assert len(read_sweep(launch.uri, "tiny")[1]) == 1


def test_a_parent_without_trials_does_not_hide_those_of_an_older_one(tmp_path: Path) -> None:
    launch, _, _ = finished(tmp_path)
    tracker = Tracker(launch.uri, "tiny", launch.store)
    tracker.start_sweep("tiny", "elsewhere", {}, None)
    tracker.close("FINISHED")
    assert read_sweep(launch.uri, "tiny")[0] == launch.tracker.parent


def test_a_deleted_trial_is_named_with_the_way_out(tmp_path: Path) -> None:
    _, client, run = finished(tmp_path)
    client.delete_run(run)
    with pytest.raises(UserError, match=rf"was deleted: restore it with mlflow runs restore --run-id {run}"):
        kept_by(Launch(tmp_path))
    client.restore_run(run)
    kept_by(Launch(tmp_path))


def test_a_renamed_experiment_is_named_and_none_is_made_in_its_place(tmp_path: Path) -> None:
    launch, client, run = finished(tmp_path)
    client.rename_experiment(launch.tracker.experiment, "better name")
    known = recorded_run(launch.store, "tiny")
    assert known == run
    with pytest.raises(UserError, match=r"of sweep tiny is called 'better name' now: rename it to 'tiny'"):
        Tracker(launch.uri, "tiny", launch.store, known)
    client.rename_experiment(launch.tracker.experiment, "tiny")
    Tracker(launch.uri, "tiny", launch.store, known).close("FINISHED")


def test_a_trial_in_another_experiment_is_refused(tmp_path: Path) -> None:
    launch, client, _ = finished(tmp_path)
    client.rename_experiment(launch.tracker.experiment, "better name")
    with pytest.raises(UserError, match=r"is in the experiment 'better name'"):
        kept_by(Launch(tmp_path))


def test_renamed_runs_and_removed_tags_do_not_matter(tmp_path: Path) -> None:
    launch, client, run = finished(tmp_path)
    client.update_run(run, name="my favourite")
    client.delete_tag(run, "digest")
    kept_by(Launch(tmp_path))
    client.delete_tag(run, "mlflow.parentRunId")
    again = Launch(tmp_path)
    assert again.tracker.parent == launch.tracker.parent
    kept_by(again)
    assert client.get_run(run).info.run_name == "my favourite"
    assert len(read_sweep(launch.uri, "tiny")[1]) == 1


@pytest.mark.parametrize("deleted", ["nothing", "version", "model"])
def test_a_deleted_version_is_registered_again(deleted: str, tmp_path: Path) -> None:
    """The student's folder is left out here, so registering it again fails with a line that names it."""
    _, client, run = finished(tmp_path)
    name = "tiny-pixart"
    client.create_registered_model(name)
    client.create_model_version(name, "somewhere", run)
    if deleted == "version":
        client.delete_model_version(name, "1")
    if deleted == "model":
        client.delete_registered_model(name)
    again = Launch(tmp_path)
    trial = again.plan.trials[0]
    assert again.ledger.restore(trial, True)
    record = again.ledger.records[trial.digest]
    record.model, record.concluded = f"models:/{name}/1", "none"
    teachers = TeacherReferences({}, {trial.teacher: ()})
    students = Students(again.plan, again.store, again.ledger, again.tracker, PROMPTS, teachers)
    students.ready(trial)
    failures = students.close()
    again.tracker.close("FINISHED")
    assert bool(failures) == (deleted != "nothing")
    assert all("student" in line for line in failures)


def test_what_mlflow_refuses_is_one_line(tmp_path: Path) -> None:
    launch, client, _ = finished(tmp_path)
    tracker = Tracker(launch.uri, "tiny", launch.store)
    with pytest.raises(UnfinishedError, match=r"tracking sqlite.*refuses: .*not found.*run the same command"):
        tracker.ask(lambda: client.set_registered_model_alias("gone", "champion", "1"))
    tracker.close("FINISHED")
