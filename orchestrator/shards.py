"""Prompt shards: parquet files of embeddings, and the order in which a training reads them.

The order is a function of (seed, epoch) and not of the number of workers: shards are permuted,
rows within a shard are permuted, global batch k is the next `batch_size` rows of that sequence,
and worker r takes its r-th slice. Shapes: B batch, S tokens, D text width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from workloads.conditioning import Conditioning


@dataclass(frozen=True)
class ShardSet:
    """The shards of one prompt set under one text encoder."""

    folder: str
    """Name of the folder in the storage."""
    rows: tuple[int, ...]
    """Prompts in each shard."""
    digests: tuple[str, ...]
    """SHA-256 of each shard's file."""
    tokens: int
    width: int

    def file(self, shard: int) -> str:
        return f"{self.folder}/{shard:06d}.parquet"

    @property
    def prompts(self) -> int:
        return sum(self.rows)


@dataclass(frozen=True)
class Position:
    """The next row to read: `row` of the `shard`-th shard in the order of `epoch`."""

    epoch: int = 0
    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Piece:
    """A stretch of the global sequence that lies in one shard."""

    epoch: int
    shard: int
    skip: int
    """Rows of the shard, in the epoch's order, that were read before."""
    take: int
    offset: int
    """Rows of the sequence before this stretch, counted from where reading began."""


def shard_order(seed: int, epoch: int, shards: int) -> npt.NDArray[np.int64]:
    """The order of the shards in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(shards)


def row_order(seed: int, epoch: int, shard: int, rows: int) -> npt.NDArray[np.int64]:
    """The order of the rows of a shard in an epoch."""
    return np.random.default_rng([seed, epoch, shard]).permutation(rows)


def advance(shards: ShardSet, seed: int, position: Position, rows: int) -> Position:
    """Where reading goes on after `rows` more rows of the global sequence."""
    epoch, index, row = position.epoch, position.shard, position.row + rows
    while True:
        order = shard_order(seed, epoch, len(shards.rows))
        while index < len(order):
            size = shards.rows[order[index]]
            if row < size:
                return Position(epoch, index, row)
            row, index = row - size, index + 1
        epoch, index = epoch + 1, 0


def pieces(shards: ShardSet, seed: int, start: Position, rows: int) -> Iterator[Piece]:
    """The next `rows` rows of the global sequence from `start`, shard by shard."""
    read, epoch, index, skip = 0, start.epoch, start.shard, start.row
    while read < rows:
        order = shard_order(seed, epoch, len(shards.rows))
        while index < len(order) and read < rows:
            shard = int(order[index])
            take = min(shards.rows[shard] - skip, rows - read)
            yield Piece(epoch, shard, skip, take, read)
            read, index, skip = read + take, index + 1, 0
        epoch, index = epoch + 1, 0


def worker_rows(
    shards: ShardSet, seed: int, piece: Piece, batch: int, rank: int, world: int
) -> npt.NDArray[np.int64]:
    """The rows of a piece's shard that worker `rank` of `world` reads, in its order.

    A batch's rows go to the workers in equal slices, so joining every worker's rows of a batch
    gives the same batch for any `world` that divides it.
    """
    rows = row_order(seed, piece.epoch, piece.shard, shards.rows[piece.shard])
    place = (np.arange(piece.take) + piece.offset) % batch
    mine: npt.NDArray[np.int64] = place // (batch // world) == rank
    return rows[piece.skip : piece.skip + piece.take].compress(mine)


def write_shard(path: Path, prompts: list[str], conditioning: Conditioning) -> None:
    """Writes prompts and their conditioning, in half precision; row i is prompt i."""
    embeddings = conditioning.embeddings.to("cpu", torch.float16).flatten(1).numpy()
    columns = {
        "prompt": pa.array(prompts),
        "embeddings": pa.FixedSizeListArray.from_arrays(embeddings.reshape(-1), embeddings.shape[1]),
    }
    if conditioning.mask is not None:
        mask = conditioning.mask.to("cpu", torch.int8).numpy()
        columns["mask"] = pa.FixedSizeListArray.from_arrays(mask.reshape(-1), mask.shape[1])
    pq.write_table(pa.table(columns), path)


def to_conditioning(batch: dict[str, npt.NDArray[np.generic]], tokens: int) -> Conditioning:
    """The embeddings (B, S, D), and the mask (B, S), of rows as they stand in a shard."""
    embeddings = torch.from_numpy(np.stack(list(batch["embeddings"])))
    mask = torch.from_numpy(np.stack(list(batch["mask"]))).long() if "mask" in batch else None
    return Conditioning(embeddings.view(len(embeddings), tokens, -1), mask)
