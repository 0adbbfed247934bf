"""The data stage on a real Ray: prompt files to shards, and shards to a worker's batches."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import torch

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.schema import Prompts
from orchestrator.data import batch_stream
from orchestrator.data.batch_stream import STRETCH_STEPS, BatchStream
from orchestrator.data.prompt_encoding import encode_prompts, prepare_prompts
from orchestrator.data.shard_order import Position, ShardSet, advance
from workloads.backbones.text_encoder import TextEncoder
from workloads.backbones.text_encoder_files import encoder_digest
from workloads.miniature import WEIGHTS
from workloads.objectives.batch import Batch

pytestmark = pytest.mark.cluster
SOURCE = str(WEIGHTS / "pixart")
REAL = Path(os.environ.get("PROMPT_SETS", Path(__file__).parents[4] / "shared" / "prompts"))


def encode(store: Store, settings: Prompts) -> ShardSet:
    return encode_prompts(prepare_prompts(settings, store), SOURCE, encoder_digest(SOURCE), store, False)


@pytest.mark.skipif(not REAL.exists(), reason=f"the real prompt sets are not at {REAL}")
@pytest.mark.parametrize(
    ("name", "column", "rows"), [("parti-prompts.tsv", "Prompt", 1632), ("geneval.jsonl", None, 553)]
)
def test_real_prompt_sets(local_ray: None, tmp_path: Path, name: str, column: str | None, rows: int) -> None:
    """Rows in = rows out + rows set aside, through both passes and into the parquet files."""
    store = Store(str(tmp_path))
    settings = Prompts(source=str(REAL / name), column=column, rows_per_shard=256)
    prompts = prepare_prompts(settings, store)
    shards = encode(store, settings)
    written = sum(pq.read_metadata(tmp_path / shards.file(i)).num_rows for i in range(len(shards.rows)))
    assert prompts.rows_read == rows == written + prompts.set_aside
    assert prompts.set_aside == 0


def test_bad_rows_are_set_aside_and_stop_nothing(local_ray: None, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_bytes(b"a red circle\n\n\xff\xfe\na blue square\n")
    (source / "b.jsonl").write_text('{"prompt": "a green cross"}\n{"prompt": 1}\n')
    (source / "c.parquet").write_bytes(b"torn")
    store = Store(str(tmp_path / "out"))
    prompts = prepare_prompts(Prompts(source=str(source)), store)
    assert (prompts.prompts, prompts.set_aside) == (3, 4)
    lines = store.read(f"{prompts.folder}/set_aside.jsonl").decode().splitlines()
    aside = [(Path(row["file"]).name, row["row"], row["reason"]) for row in map(json.loads, lines)]
    assert aside[:3] == [("a.txt", 2, "empty prompt"), ("a.txt", 3, "not UTF-8"),
                         ("b.jsonl", 2, "the prompt is not text but int")]  # fmt: skip
    assert aside[3][:2] == ("c.parquet", 0)


BAD_FILES = [
    ("empty.txt", b"", "no usable prompt in 0 rows"),
    ("column.csv", b"a,b\n1,2\n", "no usable prompt in 1 rows; the first: .*no column named"),
    ("torn.parquet", b"PAR1", "no usable prompt in 1 rows; the first: .*cannot be read"),
    ("latin.txt", b"\xe9t\xe9\n", "no usable prompt in 1 rows; the first: .*not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_file_without_a_usable_row_is_one_line(
    local_ray: None, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare_prompts(Prompts(source=str(tmp_path / name)), Store(str(tmp_path / "out")))
    assert "\n" not in str(caught.value)


def batches(
    store: Store,
    shards: ShardSet,
    start: Position,
    steps: int,
    *,
    seed: int,
    batch: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """One worker's part of the next global batches."""
    return BatchStream(store, shards, seed=seed, batch=batch, rank=rank, world=world).read_ahead(start, steps)


def test_two_workers_stream_the_batches_of_one(local_ray: None, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards = encode(store, Prompts(source="miniature:50", rows_per_shard=16))
    whole = list(batches(store, shards, Position(), 6, seed=3, batch=8, rank=0, world=1))
    halves = [
        list(batches(store, shards, Position(), 6, seed=3, batch=8, rank=rank, world=2)) for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        joined = torch.cat([half[step].prompts.embeddings for half in halves])
        assert torch.equal(joined, batch.prompts.embeddings)
        assert batch.prompts.mask is not None and len(batch.prompts) == 8
    later = list(
        batches(store, shards, advance(shards, 3, Position(), 16), 4, seed=3, batch=8, rank=0, world=1)
    )
    assert torch.equal(later[0].prompts.embeddings, whole[2].prompts.embeddings)


def test_shards_hold_embeddings_and_are_encoded_once(local_ray: None, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    settings = Prompts(source="miniature:20", rows_per_shard=16)
    shards = encode(store, settings)
    table = pq.read_table(tmp_path / shards.file(0))
    prompts = table["prompt"].to_pylist()
    stored = torch.tensor(table["embeddings"].to_pylist()).view(len(prompts), shards.tokens, -1)
    encoded = TextEncoder(SOURCE).encode(prompts).embeddings
    torch.testing.assert_close(stored, encoded, rtol=2e-3, atol=2e-3)
    before = (tmp_path / shards.file(0)).stat().st_mtime_ns
    assert encode(store, settings) == shards
    assert (tmp_path / shards.file(0)).stat().st_mtime_ns == before


def test_changed_shard_is_named(local_ray: None, tmp_path: Path) -> None:
    import ray

    store = Store(str(tmp_path))
    shards = encode(store, Prompts(source="miniature:20", rows_per_shard=32))
    path = tmp_path / shards.file(0)
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(ray.exceptions.RayTaskError, match=r"prompt shard .* has changed"):
        list(batches(store, shards, Position(), 2, seed=0, batch=4, rank=0, world=1))


def test_one_stretch_is_read_ahead(local_ray: None, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards = encode(store, Prompts(source="miniature:1600", rows_per_shard=8))
    stream = batches(store, shards, Position(), 200, seed=0, batch=8, rank=0, world=1)
    next(stream)
    deadline = time.monotonic() + 120
    while any(thread.name.startswith("StreamingExecutor") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "an executor polls between two stretches"
        time.sleep(0.2)
    for shard in range(len(shards.rows)):
        (tmp_path / shards.file(shard)).unlink()
    count = 1
    with pytest.raises(ray.exceptions.RayTaskError):
        for _ in stream:
            count += 1
    assert count == 2 * STRETCH_STEPS, "the stretch in use, and the one after it"


def test_batches_continue_over_the_end_of_a_stretch(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    shards = encode(store, Prompts(source="miniature:50", rows_per_shard=16))

    def read() -> list[Batch]:
        return list(batches(store, shards, Position(), 11, seed=3, batch=8, rank=0, world=1))

    whole = read()
    monkeypatch.setattr(batch_stream, "STRETCH_STEPS", 3)
    for one, other in zip(whole, read(), strict=True):
        assert torch.equal(one.prompts.embeddings, other.prompts.embeddings)
    assert len(whole) == 11
