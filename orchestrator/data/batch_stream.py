"""Streams a training's prompts from shards to one worker, with Ray Data.

Ray Data's own iterators cannot go on from a position (Ray 2.60), so what a worker reads is
laid down by `shards.pieces`; Ray Data fetches the pieces ahead, in order, on any node.
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
"""What is read before it is needed: of a step of 250 ms eight seconds."""
_CONTEXT = threading.Lock()
"""Ray Data's settings are the process's until a dataset is made, and prompts and negatives begin at once."""


def _pieces_ahead(shards: ShardSet, batch: int) -> int:
    """How many pieces hold the next steps, wherever in a piece reading stands."""
    rows = shards.prompts / len(shards.rows)
    return 2 + math.ceil(STEPS_AHEAD * batch / rows)


def missing_shard(store: Store, shards: ShardSet) -> str | None:
    """The first shard that is not there, by name."""
    there = set(store.files(shards.folder))
    names = (shards.file(shard) for shard in range(len(shards.rows)))
    return next((name for name in names if name not in there), None)


def prefetch_first(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, of which the first is on its way from now on: the reader's process takes seconds."""
    pool = ThreadPoolExecutor(1)
    first = pool.submit(lambda: list(islice(batches, 1)))
    pool.shutdown(wait=False)

    def all_of_them() -> Iterator[Batch]:
        yield from first.result()
        yield from batches

    return all_of_them()


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
    with _CONTEXT:
        prepare_data_context(_pieces_ahead(shards, batch))
        read = ray.data.from_items(plan, override_num_blocks=len(plan))
    dataset = read.map_batches(
        # An actor: Ray ends the process of a task that rests for a second, and a new one costs seconds.
        ReadPiece,
        fn_constructor_args=(store.root, shards, seed, batch, rank, world),
        batch_size=None,
        batch_format="pyarrow",
        # The trainers may hold every CPU; a share of one, however small, would then never be free.
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    batches: Any = dataset.iter_batches(batch_size=batch // world, batch_format="numpy", prefetch_batches=2)
    for rows in batches:
        yield to_batch(rows, shards.tokens)
