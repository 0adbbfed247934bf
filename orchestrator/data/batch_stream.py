"""Streaming of a training's prompts from shards to one worker, with Ray Data.

Ray Data's own iterators cannot resume from a position (Ray 2.60), so `shard_order.pieces` lays down which
rows a worker reads. A training reads them in stretches, a dataset each: a dataset of the whole training
would be read as far ahead as the object store has room, and its executor, a thread of the worker, would poll
its tasks all the time.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any

import ray

from orchestrator.common.storage import Store
from orchestrator.data.ray_data import prepare_data_context
from orchestrator.data.shard_codec import to_batch
from orchestrator.data.shard_order import Position, ShardSet, advance, pieces
from orchestrator.data.shard_reader import ReadPiece
from workloads.objectives.batch import Batch

STRETCH_STEPS = 64
"""Steps of a stretch, which one dataset reads: 16 seconds at 250 ms a step."""


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

        Reading begins at once, since the reader's process takes seconds to start. While one stretch is used
        the next one is read.
        """
        return prefetch_first(self._stretches(start, steps))

    def _stretches(self, start: Position, steps: int) -> Iterator[Batch]:
        prepare_data_context()
        ahead: Iterator[Batch] = iter(())
        for done in range(0, steps, STRETCH_STEPS):
            length = min(STRETCH_STEPS, steps - done)
            current, ahead = ahead, prefetch_first(self._stretch(start, length))
            yield from current
            start = advance(self._shards, self._seed, start, length * self._batch)
        yield from ahead

    def _stretch(self, start: Position, steps: int) -> Iterator[Batch]:
        """Yield the batches of one dataset, which Ray Data reads to its end without a pause."""
        plan = [asdict(piece) for piece in pieces(self._shards, self._seed, start, steps * self._batch)]
        reader = ReadPiece(self._store.root, self._shards, self._seed, self._batch, self._rank, self._world)
        dataset = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
            # The trainers may hold every CPU; a share of one, however small, would then never be free.
            reader.__call__, batch_size=None, batch_format="pyarrow", num_cpus=0
        )  # fmt: skip
        batches: Any = dataset.iter_batches(
            batch_size=self._batch // self._world, batch_format="numpy", prefetch_batches=2
        )
        for rows in batches:
            yield to_batch(rows, self._shards.tokens)


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
