"""The search's own answer to a process that dies while a trial is handed to it."""

import pickle
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError
from ray.tune.trainable.function_trainable import wrap_function

from orchestrator.execution.search import LaunchState, Queue, TuneCallback, trainable
from orchestrator.jobs import TrainingJob

MOST = 2


class Listener:
    """A ledger, students and a meter, that only listen."""

    queued = 0

    def __init__(self) -> None:
        self.said: list[str] = []
        self.over: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def ended(self, job: TrainingJob, error: str) -> bool:
        self.over.append(error)
        return False

    def ends(self, trial: str) -> None:
        """It holds nothing any more."""


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> tuple[Listener, Queue, Any]:
    """Who is told, a queue of one training, and Tune's callback."""
    monkeypatch.setattr("orchestrator.execution.search.PrometheusGauges", lambda name: None)
    resources = SimpleNamespace(max_failures=MOST)
    plan: Any = SimpleNamespace(sweep=SimpleNamespace(resources=resources, name="tiny"), infer=None)
    job: Any = object.__new__(TrainingJob)
    object.__setattr__(job, "trial", SimpleNamespace(name="pixart-s0"))
    listener: Any = Listener()
    queue = Queue(plan, [job], listener, at_once=1)
    return listener, queue, TuneCallback(plan, LaunchState(listener, listener, listener), queue, Event())


def test_a_process_that_died_before_the_trial_began_costs_no_trial(
    search: tuple[Listener, Queue, Any], tmp_path: Path
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
    assert len(listener.said) == MOST and "it is started again" in listener.said[0]
    assert listener.over == ["the trial's process ended without a word"]
    assert queue.suggest("last") == Queue.FINISHED


def test_what_tune_pickles_drags_no_part_of_the_driver_into_a_trial() -> None:
    """With `search` come MLflow and the plots, seconds for each process of a trial."""
    plan: Any = SimpleNamespace(infer=None)
    pickled = cloudpickle.dumps(wrap_function(trainable(plan)))  # as Tune does
    assert b"orchestrator.execution.trainable" in pickled and b"orchestrator.execution.search" not in pickled
