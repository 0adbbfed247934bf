"""Order of prompts: a function of seed and epoch, for any number of workers; and the codec of shards."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.data.shard_codec import to_batch, write_shard
from orchestrator.data.shard_order import Position, ShardSet, advance, pieces, worker_rows
from workloads.backbones.prompts.conditioning import Conditioning

SHARDS = ShardSet("f", (7, 5, 9), ("", "", ""), 2, 3)
BATCH = 4


def sequence(seed: int, start: Position, rows: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
    return [
        (piece.shard, int(row))
        for piece in pieces(SHARDS, seed, start, rows)
        for row in worker_rows(SHARDS, seed, piece, BATCH, rank, world)
    ]


def test_epoch_holds_every_row_once_in_its_own_order() -> None:
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
def test_reading_resumes_where_it_stopped(read: int) -> None:
    position = advance(SHARDS, 3, Position(), read)
    assert sequence(3, position, 24) == sequence(3, Position(), read + 24)[read:]


def test_advancing_in_steps_equals_advancing_at_once() -> None:
    position = Position()
    for rows in np.random.default_rng(0).integers(0, 30, 50):
        position = advance(SHARDS, 1, position, int(rows))
    total = int(np.random.default_rng(0).integers(0, 30, 50).sum())
    assert position == advance(SHARDS, 1, Position(), total)


@pytest.mark.parametrize(
    "parts", [("embeddings",), ("embeddings", "mask"), ("embeddings", "pooled")], ids=str
)
def test_shard_holds_all_parts_of_the_conditioning(tmp_path: Path, parts: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    every = {
        "embeddings": torch.randn(3, 2, 4, generator=generator),
        "mask": torch.tensor([[1, 0], [1, 1], [1, 0]]),
        "pooled": torch.randn(3, 5, generator=generator),
    }
    written = Conditioning(**{part: every[part] for part in parts})
    write_shard(tmp_path / "shard", ["a", "b", "c"], written)
    table = pq.read_table(tmp_path / "shard")
    read = to_batch({name: np.array(table[name].to_pylist()) for name in table.column_names}, 2).prompts
    assert tuple(read.parts) == parts
    for part, tensor in read.parts.items():
        torch.testing.assert_close(tensor.to(every[part].dtype), every[part], rtol=1e-3, atol=1e-3)
        assert part != "mask" or tensor.dtype == torch.long


def test_shard_holds_extra_columns(tmp_path: Path) -> None:
    prompts = Conditioning(torch.randn(3, 2, 4))
    texts = torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    write_shard(tmp_path / "shard", ["a", "b", "c"], prompts, {"mask": texts})
    table = pq.read_table(tmp_path / "shard").take([2, 0])
    read = to_batch({name: np.array(table[name].to_pylist()) for name in table.column_names}, 2)
    moved = read.to(torch.device("cpu"), torch.bfloat16)
    # An extra column may have the name of a part of the conditioning.
    assert moved.columns["mask"].dtype == torch.float32 and moved.prompts.mask is None
    assert moved.prompts.embeddings.dtype == torch.bfloat16 and moved.negatives is None
    torch.testing.assert_close(moved.columns["mask"], texts[[2, 0]], rtol=0, atol=1e-3)
    torch.testing.assert_close(read.prompts.embeddings.float(), prompts.embeddings[[2, 0]], rtol=0, atol=1e-2)
