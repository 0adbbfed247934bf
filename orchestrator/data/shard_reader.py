"""Reader of prompt shards in a process of Ray Data; imports no torch, so that the process starts fast."""

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.common.storage import Store
from orchestrator.data.shard_order import Piece, ShardSet, worker_rows

DAMAGED = ".damaged"


class ReadPiece:
    """Ray Data actor that verifies a shard's digest and selects one worker's rows from it."""

    def __init__(self, root: str, shards: ShardSet, seed: int, batch: int, rank: int, world: int) -> None:
        self._root, self._shards, self._seed = root, shards, seed
        self._batch, self._rank, self._world = batch, rank, world

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the worker's rows of a piece, which is a table of one row."""
        piece = Piece(**table.to_pylist()[0])
        content = self._verified(piece.shard)
        rows = worker_rows(self._shards, self._seed, piece, self._batch, self._rank, self._world)
        return pq.read_table(io.BytesIO(content)).take(pa.array(rows)).drop_columns(["prompt"])

    def _verified(self, shard: int) -> bytes:
        """Return a shard's content; a damaged shard is renamed, so that the next launch encodes it again."""
        store, name = Store(self._root), self._shards.file(shard)
        content = store.read(name)
        if hashlib.sha256(content).hexdigest() == self._shards.digests[shard]:
            return content
        store.move(name, name + DAMAGED)
        raise ValueError(f"prompt shard {name} has changed since it was encoded: launch again to encode it")
