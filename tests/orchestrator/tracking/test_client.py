"""The record of a launch in a real MLflow on SQLite."""

import json
from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.tracking import queries
from orchestrator.tracking.client import Tracker


@pytest.mark.parametrize("name", ["plain", "o'brien", 'an "old" disk'])
def test_a_sweep_is_found_again_in_its_storage(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / name))
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", store)
    parent = tracker.start_sweep("x", store.root, {}, None)
    tracker.log_prompts(parent, f"{store.root}/prompts.txt", "digest", 3)
    again = tracker.start_sweep("x", store.root, {}, None)
    other = tracker.start_sweep("x", str(tmp_path / "elsewhere"), {}, None)
    tracker.close("FINISHED")
    assert again == parent != other
    (used,) = tracker.client.get_run(parent).inputs.dataset_inputs
    assert json.loads(used.dataset.source) == {"uri": f"{store.root}/prompts.txt"}


def test_a_storage_that_mlflow_cannot_search_for_is_named(tmp_path: Path) -> None:
    store = Store(f'{tmp_path}/o\'brien "x"')
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", store)
    with pytest.raises(UserError, match=r"storage .*: contains both kinds of quotes"):
        tracker.start_sweep("x", store.root, {}, None)


def test_trials_of_every_page_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", store)
    parent = tracker.start_sweep("x", store.root, {}, None)
    made = {tracker.start_trial(f"t{n}", f"digest{n}", {}, {})[0] for n in range(5)}
    tracker.close("FINISHED")
    monkeypatch.setattr(queries, "PAGE", 2)
    found = queries.child_runs(tracker.client, tracker.experiment, parent)
    assert {run.info.run_id for run in found} == made and len(found) == 5
