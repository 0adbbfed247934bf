"""The search when a process dies while a trial is being handed to it."""

import pickle
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError
from ray.tune.trainable.function_trainable import wrap_function

from orchestrator.common.errors import UnfinishedError
from orchestrator.execution.job_queue import JobQueue
from orchestrator.execution.search import trainable
from orchestrator.execution.tune_callback import LaunchState, TuneCallback
from orchestrator.jobs import TrainingJob

MOST = 2


class Listener:
    """Ledger, students and budget that record the ends of trials."""

    queued = 0

    def __init__(self) -> None:
        self.over: list[str] = []

    def ended(self, job: TrainingJob, error: str) -> bool:
        self.over.append(error)
        return False

    def end(self, trial: str) -> None:
        """Stop counting GPU-hours."""


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> tuple[Listener, JobQueue, Any]:
    """Who is told, a queue of one training, and Tune's callback."""
    monkeypatch.setattr("orchestrator.execution.tune_callback.PrometheusGauges", lambda name: None)
    resources = SimpleNamespace(max_failures=MOST)
    plan: Any = SimpleNamespace(
        sweep=SimpleNamespace(
            resources=resources,
            name="tiny",
            ranked_by=None,
            budget=SimpleNamespace(no_progress_minutes=60),
        ),
        infer=None,
    )
    job: Any = object.__new__(TrainingJob)
    object.__setattr__(job, "trial", SimpleNamespace(name="pixart-s0"))
    listener: Any = Listener()
    queue = JobQueue(plan, [job], listener, max_trainings=1)
    return listener, queue, TuneCallback(plan, LaunchState(listener, listener, listener), queue, Event())


def test_a_process_that_died_early_costs_no_trial(
    search: tuple[Listener, JobQueue, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener, queue, events = search
    error = tmp_path / "error.pkl"
    error.write_bytes(pickle.dumps(ActorDiedError()))
    for attempt in range(MOST + 1):
        given: Any = queue.suggest(f"trial-{attempt}")
        assert given["job"].trial.name == "pixart-s0"
        assert queue.suggest("other") is None, "it runs, and there is no other"
        name = f"trial-{attempt}"
        dead = SimpleNamespace(config=given, trial_id=name, error_file=None, pickled_error_file=str(error))
        events.on_trial_error(0, [], dead)
    assert caplog.text.count("it is started again") == MOST
    assert listener.over == ["the trial process exited without an error message"]
    assert queue.suggest("last") == JobQueue.FINISHED


def test_a_pickled_trial_loads_no_driver_module() -> None:
    """With `search` come MLflow and the plots, seconds for each process of a trial."""
    plan: Any = SimpleNamespace(infer=None)
    pickled = cloudpickle.dumps(wrap_function(trainable(plan)))  # as Tune does
    assert b"orchestrator.execution.trainable" in pickled and b"orchestrator.execution.search" not in pickled


def test_a_launch_in_which_nothing_happens_ends_in_a_line(
    search: tuple[Listener, JobQueue, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that come and fail again are paid for, and are no trial's GPU-hours."""
    listener, _, callback = search
    listener.used_up, listener.waiting = False, 0  # type: ignore[attr-defined]
    monkeypatch.setattr(callback, "_progress", SimpleNamespace(tick=lambda waiting: None))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3500)
    callback.on_step_end(1, [])
    callback.check_progress()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3700)
    with pytest.raises(KeyboardInterrupt):
        callback.on_step_end(1, [])
    with pytest.raises(UnfinishedError, match=r"no trial has reported anything for 60 minutes"):
        callback.check_progress()
