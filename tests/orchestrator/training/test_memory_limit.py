"""Every process that computes on a share of a GPU limits its memory before it loads anything."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from orchestrator.config.schema import Resources
from orchestrator.evaluation import inference_task, scoring
from orchestrator.training import worker

SHARE = 0.25


class LimitedError(Exception):
    """In place of the limit, which ends the process's work there."""


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(share: float) -> None:
        raise LimitedError(share)

    for module in (worker, inference_task, scoring):
        monkeypatch.setattr(module, "limit_gpu_memory", limited)


@pytest.mark.parametrize("cuda", [True, False])
def test_a_training_worker(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker, "process_device", lambda: "cuda" if cuda else "cpu")
    job: Any = SimpleNamespace(
        resources=Resources(gpus_per_worker=SHARE),
        trial=SimpleNamespace(train=SimpleNamespace(precision="fp32")),
    )
    start: Any = None
    # On a CPU it goes on to what this job lacks.
    with pytest.raises(LimitedError if cuda else AttributeError, match="0.25" if cuda else "root"):
        worker.TrainWorker(job, 0.0, start)


def test_a_student_that_draws(tmp_path: Path) -> None:
    job: Any = SimpleNamespace(
        gpus=SHARE, pairs=[None], pictures=1, root=str(tmp_path), drawn="drawn", measured="measured"
    )
    with pytest.raises(LimitedError, match=str(SHARE)):
        inference_task.draw(job)


def test_a_scorer() -> None:
    with pytest.raises(LimitedError, match=str(SHARE)):
        scoring.Measure([], SHARE, 1)
