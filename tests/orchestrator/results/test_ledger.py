"""The ledger: each step is recorded once, and records lost in an outage are restored from the storage."""

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator.common.errors import UnfinishedError, UserError
from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.jobs import (
    PRUNED,
    Ended,
    HandedBack,
    Resumed,
    StepReport,
    TrainingJob,
    WorkerReport,
)
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.compatibility import check_resumable, trial_identity
from orchestrator.results.ledger import Ledger
from orchestrator.results.record import TrialRecord
from orchestrator.tracking.client import Tracker

SWEEP = """name: tiny
prompts: {source: "miniature:64"}
backbones:
  - {name: pixart, model: miniature/pixart}
train:
  steps: 12
  seed: {values: [0, 1]}
evaluate:
  sheet_prompts: [a circle]
"""
PROMPTS = PromptSet("miniature:64", "abc", "prompts/abc", (64,), 64, 0)


def plan(folder: Path, text: str = SWEEP) -> Plan:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return make_plan(load_sweep(path))


def sheet(store: Store) -> str:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    store.write("tiny/sheet.png", content.getvalue())
    return "tiny/sheet.png"


class Launch:
    """Ledger and tracker of a launch, without trainings."""

    def __init__(self, folder: Path, database: str = "mlflow.db") -> None:
        self.plan, self.store = plan(folder), Store(str(folder / "results"))
        self.uri = f"sqlite:///{folder}/{database}"
        self.tracker = Tracker(self.uri, "tiny", self.store)
        self.tracker.start_sweep("tiny", self.store.root, {}, "clip_plus")
        self.ledger = Ledger(self.store, "tiny", self.tracker)

    def start(self, index: int = 0) -> TrainingJob:
        trial = self.plan.trials[index]
        params = {"seed": trial.train.seed, "backbone": trial.backbone.name}
        run, _ = self.tracker.start_trial(trial.name, trial.digest, params, {})
        self.ledger.add(trial, run, trial_identity(self.plan, trial, PROMPTS))
        missing: Any = None
        job = TrainingJob(
            trial=trial,
            shards=missing,
            negatives=None,
            reference="",
            root=self.store.root,
            folder=f"tiny/trials/{trial.digest}",
            checkpoints="",
            evaluate=self.plan.sweep.evaluate,
            resources=self.plan.sweep.resources,
            node_labels={},
            on_one_node=False,
            ranked_by="clip_plus",
        )
        self.ledger.started(job)
        return job

    def finish(self, job: TrainingJob) -> None:
        last = replace(measured(12), sheet=sheet(self.store))
        self.ledger.reported(job, WorkerReport((last, Ended(zero_stage=2))))
        assert self.ledger.ended(job, "")

    def steps(self, run: str) -> list[int]:
        return [m.step for m in MlflowClient(self.uri).get_metric_history(run, "student_loss")]


def measured(step: int) -> StepReport:
    return StepReport(step, {"student_loss": 1 / step, "seconds_per_step": 0.5})


def report(step: int) -> WorkerReport:
    return WorkerReport((measured(step),))


def resumed(*notes: str) -> WorkerReport:
    """A group that resumes from the checkpoint of step 8, which holds three reports."""
    return WorkerReport((Resumed(8, notes, tuple(map(measured, (1, 4, 8)))),))


def test_repeated_steps_are_recorded_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch = Launch(tmp_path)
    job = launch.start()
    for step in (1, 4, 8, 10):
        launch.ledger.reported(job, report(step))
    # The workers died at step 10.
    with caplog.at_level("INFO"):
        launch.ledger.reported(job, resumed("rank 1: nothing"))
    for step in (10, 12):
        launch.ledger.reported(job, report(step))
    launch.finish(job)
    launch.tracker.close("FINISHED")
    record = launch.ledger.records[job.trial.digest]
    assert launch.steps(record.run) == [1, 4, 8, 10, 12]
    assert record.train_seconds == 6.0, "steps done twice count once"
    assert "rank 1: nothing" in caplog.text and "resumes after step 8" in caplog.text


def test_reports_that_a_driver_missed_are_recorded(tmp_path: Path) -> None:
    first = Launch(tmp_path)
    first.ledger.reported(first.start(), report(1))
    first.tracker.close("KILLED")
    again = Launch(tmp_path)
    job = again.start()
    again.ledger.reported(job, resumed())
    again.finish(job)
    again.tracker.close("FINISHED")
    assert again.steps(again.ledger.records[job.trial.digest].run) == [1, 4, 8, 12]
    runs = again.tracker.client.search_runs([again.tracker.experiment])
    assert len(runs) == 2, "the trial's run and its parent are found again"


def test_an_outage_at_the_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launch = Launch(tmp_path)
    job = launch.start()
    launch.ledger.reported(job, report(1))
    launch.tracker.ask(lambda: None)
    drained(launch)

    def down(*given: Any, **named: Any) -> None:
        raise ConnectionError("refused")

    for name in ("log_batch", "log_image", "log_dict", "get_experiment", "get_metric_history"):
        monkeypatch.setattr(launch.tracker.client, name, down)
    launch.ledger.reported(job, report(4))
    launch.finish(job)
    with pytest.raises(UnfinishedError, match="records wait: run the same command once it answers"):
        launch.tracker.close("FINISHED", seconds=1)
    assert "does not answer" in caplog.text
    monkeypatch.undo()
    run = launch.ledger.records[job.trial.digest].run
    assert launch.steps(run) == [1]
    again = Launch(tmp_path)
    assert again.ledger.restore(job.trial, True)
    again.tracker.close("FINISHED")
    assert again.steps(run) == [1, 4, 12]
    assert again.tracker.client.get_run(run).info.status == "FINISHED"
    assert not again.store.read_json(f"tiny/results/{job.trial.digest}.json")["reports"]
    third = Launch(tmp_path)
    assert third.ledger.restore(job.trial, True)
    third.tracker.close("FINISHED")
    assert third.steps(run) == [1, 4, 12]
    pictures = third.tracker.client.list_artifacts(run, "images")
    assert sum(file.path.endswith(".png") for file in pictures) == 1


def drained(launch: Launch) -> None:
    done: list[bool] = []
    launch.tracker.then(lambda: done.append(True))
    while not done:
        pass


class Asked:
    """Counts what a client is asked, by method."""

    def __init__(self, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        for name in ("log_batch", "get_metric_history", "list_artifacts", "search_runs", "get_run"):
            monkeypatch.setattr(launch.tracker.client, name, self._counted(launch.tracker.client, name))

    def _counted(self, client: MlflowClient, name: str) -> Any:
        ask = getattr(client, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.count[name] += 1
            return ask(*given, **named)

        return counted


def test_metrics_are_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request for many steps, and none for the content of a new run."""
    launch = Launch(tmp_path)
    job = launch.start()
    drained(launch)
    asked, gate = Asked(launch, monkeypatch), Event()
    launch.tracker.then(gate.wait)
    for step in range(1, 12):
        launch.ledger.reported(job, report(step))
    gate.set()
    launch.finish(job)
    launch.tracker.close("FINISHED")
    assert launch.steps(launch.ledger.records[job.trial.digest].run) == list(range(1, 13))
    assert asked.count["list_artifacts"] == 0 and asked.count["log_batch"] < 6, asked.count
    assert asked.count["get_metric_history"] == 0


def test_a_sweep_resumes_with_one_request(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Launch(finished)
    trials = made.plan.trials
    made.finish(made.start(1))
    made.tracker.close("FINISHED")
    again = Launch(finished)
    asked = Asked(again, monkeypatch)
    assert all(again.ledger.restore(trial, True) for trial in trials)
    again.start(1)
    again.tracker.close("FINISHED")
    assert asked.count["search_runs"] == asked.count["get_run"] == 0, "asked when the sweep was opened"


def test_the_experiment_has_a_view_and_a_kind(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.tracker.close("FINISHED")
    tags = launch.tracker.client.get_experiment(launch.tracker.experiment).tags
    assert json.loads(tags["mlflow.sharedViewState.trials"])["orderByKey"] == "metrics.`clip_plus`"
    assert tags["mlflow.experimentKind"] == "custom_model_development"


ALTERED: list[tuple[str, str, str]] = [
    ("steps: 12", "steps: 24", r"finished trial \w+ was made with train.steps 12, which is 24 now"),
    ("seed: {values: [0, 1]}", "seed: {values: [1, 2]}", r"was made with train.seed 0, which is"),
    ("[a circle]", "[a square]", r"evaluate.sheet_prompts \['a circle'\], which is \['a square'\] now"),
    ("miniature/pixart", "miniature/unet-v", r"was made with model 'miniature/pixart'"),
]
GROWN: list[tuple[str, str]] = [
    ("values: [0, 1]", "values: [0, 1, 2]"),
    ("values: [0, 1]", "values: [0]"),
    ("pixart}\n", "pixart}\n  - {name: more, model: miniature/unet-v}\n"),
    ("[a circle]", "[a circle]\n  evaluations: 3"),
]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A storage that holds the result of the first trial."""
    launch = Launch(tmp_path)
    launch.finish(launch.start())
    launch.tracker.close("FINISHED")
    return tmp_path


@pytest.mark.parametrize(("old", "new", "says"), ALTERED)
def test_altered_finished_trials_are_refused(finished: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_resumable(plan(finished, SWEEP.replace(old, new)), Store(str(finished / "results")), PROMPTS)
    assert "--set name=" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), GROWN)
def test_a_file_may_grow_and_shrink(finished: Path, old: str, new: str) -> None:
    assert old in SWEEP
    check_resumable(plan(finished, SWEEP.replace(old, new)), Store(str(finished / "results")), PROMPTS)


@pytest.mark.parametrize("content", ['{"status": "finished"}', '{"identity": ', "[]"])
def test_an_unreadable_result_is_named(finished: Path, content: str) -> None:
    (result,) = finished.glob("results/tiny/results/*.json")
    result.write_text(content)
    with pytest.raises(UserError, match=f"{result}: is incomplete or of an earlier version") as caught:
        check_resumable(plan(finished), Store(str(finished / "results")), PROMPTS)
    assert "\n" not in str(caught.value)


def test_changed_prompts_are_refused(finished: Path) -> None:
    other = PromptSet("miniature:64", "other", "prompts/other", (64,), 64, 0)
    with pytest.raises(UserError, match=r"prompts of digest 'abc', which is 'other' now"):
        check_resumable(plan(finished), Store(str(finished / "results")), other)


def test_runs_must_exist_in_this_mlflow(finished: Path) -> None:
    other = Launch(finished, "other.db")
    with pytest.raises(UserError, match="does not exist: give the tracking URI that it was recorded with"):
        other.ledger.restore(other.plan.trials[0], True)
    other.tracker.close("FAILED")
    run = other.store.read_json(f"tiny/results/{other.plan.trials[0].digest}.json")["run"]
    MlflowClient(f"sqlite:///{finished}/mlflow.db").delete_run(run)
    same = Launch(finished)
    with pytest.raises(UserError, match=f"mlflow runs restore --run-id {run}"):
        same.ledger.restore(same.plan.trials[0], True)
    same.tracker.close("FAILED")


def test_a_stopped_trial_resumes_without_scheduler(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    job = launch.start()
    launch.ledger.reported(job, WorkerReport((measured(6), HandedBack(PRUNED))))
    assert launch.ledger.ended(job, "") is False
    launch.tracker.close("FINISHED")
    assert launch.ledger.records[job.trial.digest].status == "stopped"
    again = Launch(tmp_path)
    assert again.ledger.restore(job.trial, True) and not again.ledger.restore(job.trial, False)
    again.tracker.close("FINISHED")


def test_a_trial_that_never_began_has_failed(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    job = launch.start()
    launch.ledger.records[job.trial.digest].status = "waiting"
    assert not launch.ledger.ended(job, "ActorDiedError: gone")
    assert launch.ledger.records[job.trial.digest].status == "failed"
    launch.tracker.close("FAILED")


def test_the_last_time_a_picture_is_kept(tmp_path: Path) -> None:
    """It is measured at evaluations alone, and results of earlier versions have none."""
    trial = plan(tmp_path).trials[0]
    record = TrialRecord(trial, "run")
    for step, metrics in enumerate([{}, {"seconds_per_picture": 0.5}, {"seconds_per_picture": 0.25}, {}], 1):
        record.add(StepReport(step, metrics))
    stored = json.loads(json.dumps(record.to_json()))
    assert TrialRecord.from_json(trial, stored).seconds_per_picture == 0.25
    del stored["seconds_per_picture"]
    assert TrialRecord.from_json(trial, stored).seconds_per_picture is None
