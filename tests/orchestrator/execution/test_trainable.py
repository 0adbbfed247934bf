"""How a trial's training begins, and how often its workers are looked at."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.train.v2._internal.execution.controller import TrainController

from orchestrator.data.shard_order import ShardSet
from orchestrator.execution.trainable import SECONDS_AFTER_A_REPORT, SECONDS_IN_SILENCE, _Controller
from orchestrator.training import startup
from orchestrator.training.checkpoint.manifest import Progress
from workloads.backbones.conditioning import Conditioning
from workloads.objectives.batch import Batch
from workloads.settings.train import TrainSettings


def test_workers_are_looked_at_soon_after_a_report_and_rarely_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report waits for the look at the one before: 24 steps that each report took 22 s, not 7."""
    reports = iter([object(), None, None, None, None, object()])

    async def look(controller: Any) -> Any:
        return SimpleNamespace(worker_statuses={0: SimpleNamespace(training_report=next(reports))})

    monkeypatch.setattr(TrainController, "_poll_workers", look)
    controller = object.__new__(_Controller)
    controller._health_check_interval_s = SECONDS_IN_SILENCE
    pauses = []
    for _ in range(6):
        asyncio.run(controller._poll_workers())
        pauses.append(controller._health_check_interval_s)
    least, most = SECONDS_AFTER_A_REPORT, SECONDS_IN_SILENCE
    assert pauses == [least, 2 * least, 4 * least, most, most, least]


def test_prompts_and_negatives_are_read_from_the_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader's process takes seconds to begin."""
    both = threading.Barrier(2)

    def stream(store: Any, shards: ShardSet, *_: Any) -> Iterator[Batch]:
        both.wait(30)
        for step in range(3):
            yield Batch(Conditioning(torch.full((1, 1, 1), shards.prompts + step)))

    monkeypatch.setattr(startup, "stream", stream)
    prompts, negatives = (ShardSet("unused", (count,), ("",), 1, 1) for count in (10, 20))
    train = TrainSettings(steps=3, batch_size=1)
    job: Any = SimpleNamespace(
        root="unused", shards=prompts, negatives=negatives, trial=SimpleNamespace(train=train)
    )
    found = list(startup._batches(job, Progress(0), rank=0, world=1))
    assert [batch.prompts.embeddings.item() for batch in found] == [10, 11, 12]
    assert [batch.negatives.embeddings.item() for batch in found if batch.negatives] == [20, 21, 22]
