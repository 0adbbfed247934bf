"""The order of prompts: a function of seed and epoch, whatever the number of workers."""

import numpy as np
import pytest

from orchestrator.shards import Position, ShardSet, advance, pieces, worker_rows

SHARDS = ShardSet("f", (7, 5, 9), ("", "", ""), 2, 3)
BATCH = 4


def sequence(seed: int, start: Position, rows: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
    return [
        (piece.shard, int(row))
        for piece in pieces(SHARDS, seed, start, rows)
        for row in worker_rows(SHARDS, seed, piece, BATCH, rank, world)
    ]


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own() -> None:
    order = sequence(0, Position(), 42)
    every = {(shard, row) for shard, size in enumerate(SHARDS.rows) for row in range(size)}
    assert set(order[:21]) == set(order[21:]) == every
    assert order[:21] != order[21:] and order != sequence(1, Position(), 42)


@pytest.mark.parametrize("world", [2, 4])
def test_workers_together_read_the_same_batches(world: int) -> None:
    rows, share = 40, BATCH // world
    whole = sequence(0, Position(), rows)
    parts = [sequence(0, Position(), rows, rank, world) for rank in range(world)]
    for step in range(rows // BATCH):
        joined = [row for part in parts for row in part[step * share : (step + 1) * share]]
        assert joined == whole[step * BATCH : (step + 1) * BATCH]


@pytest.mark.parametrize("read", [0, 4, 7, 8, 20, 24, 44])
def test_reading_goes_on_where_it_stopped(read: int) -> None:
    position = advance(SHARDS, 3, Position(), read)
    assert sequence(3, position, 24) == sequence(3, Position(), read + 24)[read:]


def test_advancing_in_small_steps_is_advancing_at_once() -> None:
    position = Position()
    for rows in np.random.default_rng(0).integers(0, 30, 50):
        position = advance(SHARDS, 1, position, int(rows))
    total = int(np.random.default_rng(0).integers(0, 30, 50).sum())
    assert position == advance(SHARDS, 1, Position(), total)
