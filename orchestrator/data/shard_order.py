"""Prompt shards: parquet files (see `shard_codec`), and the order in which a training reads them.

The order is a function of (seed, epoch) and not of the number of workers: shards are permuted,
rows within a shard are permuted, global batch k is the next `batch_size` rows of that sequence,
and worker r takes its r-th slice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.common.digests import digest


@dataclass(frozen=True)
class ShardSet:
    """The shards of one prompt set under one text encoder."""

    folder: str
    """Folder in the storage."""
    rows: tuple[int, ...]
    """Prompts in each shard."""
    digests: tuple[str, ...]
    """SHA-256 of each shard's file."""
    tokens: int
    width: int
    cut: int = 0
    """Prompts that are longer than the encoder's tokens."""

    def file(self, shard: int) -> str:
        return f"{self.folder}/{shard:06d}.parquet"

    @property
    def prompts(self) -> int:
        return sum(self.rows)

    @property
    def digest(self) -> str:
        """Digest of all shards."""
        return digest(self.digests)


@dataclass(frozen=True)
class Position:
    """The next row to read: `row` of the `shard`-th shard in the order of `epoch`."""

    epoch: int = 0
    shard: int = 0
    row: int = 0


START = Position()


@dataclass(frozen=True)
class Piece:
    """A contiguous part of the global sequence that lies in one shard."""

    epoch: int
    shard: int
    skip: int
    """Rows of the shard, in the epoch's order, that precede the piece."""
    take: int
    offset: int
    """Rows of the sequence before the piece, counted from the start of reading."""


def shard_order(seed: int, epoch: int, shards: int) -> npt.NDArray[np.int64]:
    """Return the order of the shards in an epoch: a permutation (shards,)."""
    return np.random.default_rng([seed, epoch]).permutation(shards)


def row_order(seed: int, epoch: int, shard: int, rows: int) -> npt.NDArray[np.int64]:
    """Return the order of the rows of a shard in an epoch: a permutation (rows,)."""
    return np.random.default_rng([seed, epoch, shard]).permutation(rows)


def advance(shards: ShardSet, seed: int, position: Position, rows: int) -> Position:
    """Return the position after `rows` more rows of the global sequence."""
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
    """Yield the next `rows` rows of the global sequence from `start`, shard by shard."""
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
    """Return the rows of a piece's shard that worker `rank` of `world` reads, in order: indices (rows,).

    A batch's rows go to the workers in equal slices, so joining every worker's rows of a batch
    gives the same batch for any `world` that divides it.
    """
    rows = row_order(seed, piece.epoch, piece.shard, shards.rows[piece.shard])
    place = (np.arange(piece.take) + piece.offset) % batch
    mine: npt.NDArray[np.int64] = place // (batch // world) == rank
    return rows[piece.skip : piece.skip + piece.take].compress(mine)
