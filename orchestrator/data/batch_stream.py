"""Streaming of a training's prompts from shards to one worker, with Ray Data.

Ray Data's own iterators cannot resume from a position (Ray 2.60), so `shard_order.pieces` lays down which
rows a worker reads, and Ray Data fetches the pieces ahead of the training, in order, on any node.
"""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any

import ray

from orchestrator.common.storage import Store
from orchestrator.data.ray_data import prepare_data_context
from orchestrator.data.shard_codec import to_batch
from orchestrator.data.shard_order import Position, ShardSet, pieces
from orchestrator.data.shard_reader import ReadPiece
from workloads.objectives.batch import Batch

STEPS_AHEAD = 32
"""Steps whose prompts are read ahead: eight seconds at 250 ms a step."""
_CONTEXT = threading.Lock()
"""Guards Ray Data's settings, which belong to the process until a dataset is created; prompts and negative
prompts start at the same time."""


class BatchStream:
    """One worker's rows of the global batches of a training."""

    def __init__(
        self, store: Store, shards: ShardSet, *, seed: int, batch: int, rank: int, world: int
    ) -> None:
        """Describe the stream; nothing is read yet.

        Args:
            store: the storage.
            shards: the encoded prompts.
            seed: determines the order, with the epoch.
            batch: rows of a global batch.
            rank: this worker's rank.
            world: number of workers.
        """
        self._store, self._shards = store, shards
        self._seed, self._batch, self._rank, self._world = seed, batch, rank, world

    def read_ahead(self, start: Position, steps: int) -> Iterator[Batch]:
        """Return the worker's part of `steps` global batches from `start`, on the CPU.

        Reading begins at once, since the reader's process takes seconds to start.
        """
        # The generator of a training without remaining steps must not start: it would start a process.
        return prefetch_first(islice(self._read(start, steps), steps))

    def _read(self, start: Position, steps: int) -> Iterator[Batch]:
        batches: Any = self._dataset(start, steps).iter_batches(
            batch_size=self._batch // self._world, batch_format="numpy", prefetch_batches=2
        )
        for rows in batches:
            yield to_batch(rows, self._shards.tokens)

    def _dataset(self, start: Position, steps: int) -> Any:
        plan = [asdict(piece) for piece in pieces(self._shards, self._seed, start, steps * self._batch)]
        with _CONTEXT:
            prepare_data_context(self._pieces_ahead())
            items = ray.data.from_items(plan, override_num_blocks=len(plan))
        reader = (self._store.root, self._shards, self._seed, self._batch, self._rank, self._world)
        return items.map_batches(
            # An actor: Ray ends a task's process that rests for a second, and a new one costs seconds.
            ReadPiece,
            fn_constructor_args=reader,
            batch_size=None,
            batch_format="pyarrow",
            # The trainers may hold every CPU; a share of one, however small, would then never be free.
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(size=1),
        )

    def _pieces_ahead(self) -> int:
        """Return how many pieces hold the next `STEPS_AHEAD` steps, from any position within a piece."""
        rows = self._shards.prompts / len(self._shards.rows)
        return 2 + math.ceil(STEPS_AHEAD * self._batch / rows)


def missing_shard(store: Store, shards: ShardSet) -> str | None:
    """Return the name of the first shard that does not exist; None if all exist."""
    existing = set(store.files(shards.folder))
    names = (shards.file(shard) for shard in range(len(shards.rows)))
    return next((name for name in names if name not in existing), None)


def prefetch_first(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Return the same batches, and start fetching the first one in the background."""
    pool = ThreadPoolExecutor(1)
    first = pool.submit(lambda: list(islice(batches, 1)))
    pool.shutdown(wait=False)

    def joined() -> Iterator[Batch]:
        yield from first.result()
        yield from batches

    return joined()
