"""The data stage on a real Ray: prompt files to shards, and shards to a worker's batches."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.stats import _StatsManager

from orchestrator.common.errors import UserError
from orchestrator.common.ray_internals import PAUSE_SECONDS, REST_SECONDS
from orchestrator.common.storage import Store
from orchestrator.config.schema import Prompts
from orchestrator.data.batch_stream import STEPS_AHEAD, BatchStream
from orchestrator.data.prompt_encoding import encode_prompts, prepare_prompts
from orchestrator.data.ray_data import prepare_data_context
from orchestrator.data.shard_order import Position, ShardSet, advance
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.miniature import WEIGHTS
from workloads.objectives.batch import Batch

pytestmark = pytest.mark.cluster
SOURCE = str(WEIGHTS / "pixart")
REAL = Path(os.environ.get("PROMPT_SETS", Path(__file__).parents[4] / "shared" / "prompts"))


def encode(store: Store, settings: Prompts) -> ShardSet:
    return encode_prompts(
        prepare_prompts(settings, store), TeacherSource(SOURCE), encoder_digest(SOURCE), store, False
    )


def test_unreadable_encoder_is_one_line(local_ray: None, tmp_path: Path) -> None:
    """The actors of the second pass hold it, and an error of theirs would be a traceback of Ray."""
    source, store = str(shutil.copytree(SOURCE, tmp_path / "teacher")), Store(str(tmp_path / "results"))
    prompts = prepare_prompts(Prompts(source="miniature:64"), store)
    (tmp_path / "teacher/text_encoder/model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"^backbone .*: its text_encoder cannot be read: [^\n]*$"):
        encode_prompts(prompts, TeacherSource(source), encoder_digest(source), store, False)


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
    ("empty.txt", b"", "no usable prompt in 1 rows; the first: .*the file holds no rows"),
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


def test_many_small_files_are_read_like_one(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task of Ray for each of these files would take a minute."""
    monkeypatch.setattr("orchestrator.data.prompt_reading.PROGRESS_SECONDS", 0.0)
    caplog.set_level("INFO")
    captions = [f"a caption {number}" for number in range(1200)]
    (tmp_path / "one.txt").write_text("\n".join(captions))
    folder = tmp_path / "many"
    for number, caption in enumerate(captions):
        file = folder / f"{number // 100:02}/{number:05}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(caption)
    (folder / "README.txt").write_text("Captions.")
    store = Store(str(tmp_path / "out"))
    one = prepare_prompts(Prompts(source=str(tmp_path / "one.txt")), store)
    began = time.monotonic()
    many = prepare_prompts(Prompts(source=folder.as_uri()), store)
    assert time.monotonic() - began < 30
    assert many.digest == one.digest and (many.prompts, many.set_aside, many.left_out) == (1200, 0, 1)
    assert "1 files are left out: 1 README" in caplog.text
    assert "reading prompts: 1200 rows, file 1200 of 1200" in caplog.text


def test_prompts_beyond_the_tokens_are_counted(
    local_ray: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a large red circle " * 8
    (tmp_path / "p.txt").write_text(f"a red circle\n{long}\na blue square\n{long} on green\n")
    store, settings = Store(str(tmp_path)), Prompts(source=str(tmp_path / "p.txt"), rows_per_shard=2)
    assert encode(store, settings).cut == 2
    told = f"2 of 4 prompts are longer than 16 tokens; the encoder of {SOURCE} sees their beginning"
    assert told in caplog.text
    caplog.clear()
    assert encode(store, settings).cut == 2, "nothing is encoded"
    assert told in caplog.text


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


def test_reading_keeps_a_stretch_ahead_of_a_training_and_no_more(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    shards = encode(store, Prompts(source="miniature:160", rows_per_shard=8))
    looks = count_looks(monkeypatch)
    stream = batches(store, shards, Position(), 120, seed=0, batch=8, rank=0, world=1)
    next(stream)
    wait_until_it_rests(looks)
    for shard in range(len(shards.rows)):
        (tmp_path / shards.file(shard)).unlink()
    there = 1
    with pytest.raises(ray.exceptions.RayTaskError):
        for _ in stream:
            there += 1
    # A piece is a step here; some are already with the consumer.
    assert STEPS_AHEAD <= there <= STEPS_AHEAD + 10


def test_an_executor_that_has_read_enough_rests(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count_looks(monkeypatch)
    prepare_data_context(blocks_ahead=2)
    dataset = ray.data.range(80, override_num_blocks=8).map_batches(lambda batch: batch, num_cpus=0.01)
    stream = iter(dataset.iter_batches(batch_size=10, prefetch_batches=0))
    next(stream)
    wait_until_it_rests(looks)
    began = len(looks)
    time.sleep(2 * REST_SECONDS)
    assert len(looks) - began <= 4
    assert len(list(stream)) == 7


def test_a_consumer_pickles_no_statistics_between_batches(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(_StatsManager, "update_iteration_metrics", lambda *_: told.append(1))
    prepare_data_context()
    stream = iter(ray.data.range(3, override_num_blocks=3).iter_batches(batch_size=1))
    assert len(list(islice(stream, 3))) == 3
    assert not told
    assert not list(stream)


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the executor of any dataset looks at its tasks."""
    looks: list[float] = []
    look = StreamingExecutor._scheduling_loop_step

    def counted(executor: StreamingExecutor, topology: Any) -> bool:
        looks.append(time.monotonic())
        return bool(look(executor, topology))

    monkeypatch.setattr(StreamingExecutor, "_scheduling_loop_step", counted)
    return looks


def wait_until_it_rests(looks: list[float]) -> None:
    while time.monotonic() - looks[-1] < REST_SECONDS / 2:
        time.sleep(0.1)


def test_an_executor_that_may_start_nothing_rests(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a training, which takes every CPU of the cluster from Ray Data."""
    looks = count_looks(monkeypatch)
    prepare_data_context()
    limits = ray.data.ExecutionResources(cpu=0)
    monkeypatch.setattr(ray.data.DataContext.get_current().execution_options, "resource_limits", limits)
    dataset = ray.data.range(40, override_num_blocks=4).map_batches(lambda batch: batch, num_cpus=0.01)
    for _ in dataset.iter_batches(batch_size=10, prefetch_batches=0):
        time.sleep(0.5)
    seconds = looks[-1] - looks[0]
    assert len(looks) <= 1.2 * seconds / PAUSE_SECONDS + 1
