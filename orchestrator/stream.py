"""Streams a training's prompts from shards to one worker, with Ray Data.

Ray Data's own iterators cannot go on from a position (Ray 2.60), so what a worker reads is
laid down by `shards.pieces`; Ray Data fetches the pieces ahead, in order, on any node.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from orchestrator.data_context import prepare_data_context
from orchestrator.shards import Piece, Position, ShardSet, pieces, to_batch, worker_rows
from orchestrator.storage import Store
from workloads.objectives.objective import Batch

DAMAGED = ".damaged"


class ReadPiece:
    """A Ray Data task: verifies a shard's digest and takes one worker's rows out of it."""

    def __init__(self, root: str, shards: ShardSet, seed: int, batch: int, rank: int, world: int) -> None:
        self._root, self._shards, self._seed = root, shards, seed
        self._batch, self._rank, self._world = batch, rank, world

    def __call__(self, table: pa.Table) -> pa.Table:
        """A piece, as a table of one row -> the worker's rows of it."""
        piece = Piece(**table.to_pylist()[0])
        content = self._verified(piece.shard)
        rows = worker_rows(self._shards, self._seed, piece, self._batch, self._rank, self._world)
        return pq.read_table(io.BytesIO(content)).take(pa.array(rows)).drop_columns(["prompt"])

    def _verified(self, shard: int) -> bytes:
        """A shard that has changed is set aside, so that the next launch makes it anew."""
        store, name = Store(self._root), self._shards.file(shard)
        content = store.read(name)
        if hashlib.sha256(content).hexdigest() == self._shards.digests[shard]:
            return content
        store.move(name, name + DAMAGED)
        raise ValueError(f"prompt shard {name} has changed")


def missing_shard(store: Store, shards: ShardSet) -> str | None:
    """The first shard that is not there, by name."""
    there = set(store.files(shards.folder))
    names = (shards.file(shard) for shard in range(len(shards.rows)))
    return next((name for name in names if name not in there), None)


def stream(
    store: Store,
    shards: ShardSet,
    seed: int,
    start: Position,
    steps: int,
    batch: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """Worker `rank`'s part of each of the `steps` global batches from `start`, on the CPU."""
    plan = [asdict(piece) for piece in pieces(shards, seed, start, steps * batch)]
    prepare_data_context()
    dataset = ray.data.from_items(plan, override_num_blocks=len(plan)).map_batches(
        ReadPiece(store.root, shards, seed, batch, rank, world),
        batch_size=None,
        batch_format="pyarrow",
        # The trainers may hold every CPU; a share of one, however small, would then never be free.
        num_cpus=0,
        concurrency=1,
    )
    batches: Any = dataset.iter_batches(batch_size=batch // world, batch_format="numpy", prefetch_batches=2)
    for rows in batches:
        yield to_batch(rows, shards.tokens)
