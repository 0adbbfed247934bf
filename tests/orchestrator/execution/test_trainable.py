"""The start of a training: its prompts are read before its networks load."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.data.batch_stream import BatchStream
from orchestrator.data.shard_order import Position, ShardSet
from orchestrator.training.checkpoint.manifest import Progress
from orchestrator.training.startup import remaining_batches
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.batch import Batch
from workloads.settings.objectives.pgsb import PGSBSettings


def test_prompts_and_negatives_start_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader's process takes seconds to start."""
    both = threading.Barrier(2)

    def read(self: BatchStream, start: Position, steps: int) -> Iterator[Batch]:
        both.wait(30)
        for step in range(steps):
            yield Batch(Conditioning(torch.full((1, 1, 1), self._shards.prompts + step)))

    monkeypatch.setattr(BatchStream, "_read", read)
    prompts, negatives = (ShardSet("unused", (count,), ("",), 1, 1) for count in (10, 20))
    train = PGSBSettings(steps=3, batch_size=1)
    job: Any = SimpleNamespace(
        root="unused", shards=prompts, negatives=negatives, trial=SimpleNamespace(train=train)
    )
    found = list(remaining_batches(job, Progress(0), rank=0, world=1))
    assert [batch.prompts.embeddings.item() for batch in found] == [10, 11, 12]
    assert [batch.negatives.embeddings.item() for batch in found if batch.negatives] == [20, 21, 22]
