"""The data stage: prompt files to shards of embeddings, with Ray Data.

Two passes. The first reads and validates rows and splits the usable ones into text shards; the
second gives each text shard to an actor that holds the text encoder, so that no trainer
loads one. A digest of their inputs names the shards, so trials and sweeps share them, and a
second launch reuses them.
"""

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store, file_digest
from orchestrator.config.schema import Prompts
from orchestrator.data.miniature_prompts import SEED, caption_count
from orchestrator.data.prompt_files import Row, list_files, read_rows
from orchestrator.data.shard_codec import write_shard
from orchestrator.data.shard_order import ShardSet
from workloads.miniature.world import captions
from workloads.objectives.columns import Column

ENCODE_BATCH = 64
MAX_ENCODERS, SHARDS_PER_ENCODER = 8, 64
"""Most actors of the second pass, and shards of each: loading the text encoder must pay off."""
DATA_CPUS = 0.25
"""CPUs of each task of the data stage, which is bound by file access more than by computation."""


@dataclass(frozen=True)
class PromptSet:
    """Validated prompts, split into text shards."""

    source: str
    digest: str
    """Digest of the usable prompts in order, and of the size of a shard."""
    folder: str
    rows: tuple[int, ...]
    rows_read: int
    set_aside: int

    @property
    def prompts(self) -> int:
        return sum(self.rows)


class ShardNote(TypedDict):
    """Content of the JSON file beside a finished shard."""

    sha256: str
    bytes: int
    tokens: int
    width: int


def prepare_prompts(settings: Prompts, store: Store) -> PromptSet:
    """Read, validate and split the prompts of `settings` (pass one).

    Bad rows are written to `set_aside.jsonl` beside the shards, each with file, row and reason.

    Raises:
        UserError: there is no prompt file, or no usable row in any.
    """
    texts, bad = _read(settings)
    if not texts:
        example = f"; the first: {bad[0].file} row {bad[0].row}: {bad[0].reason}" if bad else ""
        raise UserError(f"prompts.source {settings.source}: no usable prompt in {len(bad)} rows{example}")
    name = digest([texts, settings.rows_per_shard])[:16]
    folder = f"prompts/{name}"
    parts = [
        texts[row : row + settings.rows_per_shard] for row in range(0, len(texts), settings.rows_per_shard)
    ]
    rows = tuple(len(part) for part in parts)
    found = PromptSet(settings.source, name, folder, rows, len(texts) + len(bad), len(bad))
    sizes = store.sizes(f"{folder}/text")
    for index, part in enumerate(parts):
        content = _parquet(pa.table({"prompt": part}))
        if sizes.get(f"{index:06d}.parquet") != len(content):
            store.write(f"{folder}/text/{index:06d}.parquet", content)
    store.write_json(f"{folder}/index.json", asdict(found))
    store.write(
        f"{folder}/set_aside.jsonl", b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in bad)
    )
    return found


def encode_prompts(
    prompts: PromptSet,
    source: str,
    encoder: str,
    store: Store,
    gpu: bool,
    columns: Sequence[Column] = (),
) -> ShardSet:
    """Encode every text shard with the text encoder of `source` (pass two).

    Args:
        encoder: digest of that text encoder and of `columns`; with the prompts it names the folder.
        columns: further columns that an objective needs for each prompt.

    Raises:
        UserError: the text encoder, or the model of a column, cannot be read.
    """
    folder = f"{prompts.folder}/{encoder[:16]}"
    notes = _notes(prompts, folder, store)
    sizes = store.sizes(folder)
    # The size reveals a truncated or missing shard; workers compare digests when they read.
    todo = [
        shard
        for shard in range(len(prompts.rows))
        if shard not in notes or sizes.get(f"{shard:06d}.parquet") != notes[shard]["bytes"]
    ]
    if todo:
        shards = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
        done = shards.map(
            EncodeShard,
            fn_constructor_args=(source, store.root, prompts.folder, folder, tuple(columns)),
            compute=ray.data.ActorPoolStrategy(size=min(MAX_ENCODERS, -(-len(todo) // SHARDS_PER_ENCODER))),
            num_cpus=DATA_CPUS,
            num_gpus=1 if gpu else 0,
        )
        if refused := [row["refused"] for row in done.take_all() if row["refused"]]:
            raise UserError(refused[0])
        notes = _notes(prompts, folder, store)
    digests = tuple(notes[shard]["sha256"] for shard in range(len(prompts.rows)))
    return ShardSet(folder, prompts.rows, digests, notes[0]["tokens"], notes[0]["width"])


def _notes(prompts: PromptSet, folder: str, store: Store) -> dict[int, ShardNote]:
    """Return the notes of all finished shards, by number."""
    files = store.sizes(folder)
    done = [shard for shard in range(len(prompts.rows)) if f"{shard:06d}.json" in files]
    return {shard: store.read_json(f"{folder}/{shard:06d}.json") for shard in done}


class EncodeShard:
    """A Ray Data actor that holds a text encoder and turns text shards into embeddings."""

    def __init__(
        self, source: str, root: str, text_folder: str, folder: str, columns: Sequence[Column]
    ) -> None:
        import torch

        from workloads.backbones.text_encoder import TextEncoder

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._refused = ""
        try:
            self._encoder = TextEncoder(source, device)
            self._makers = {column.name: column.open(source, device) for column in columns}
        except ValueError as error:  # a row takes it to the driver, where Ray would show a traceback
            self._refused = str(error)
        self._store = Store(root)
        self._text_folder, self._folder = text_folder, folder

    def __call__(self, row: dict[str, int]) -> dict[str, object]:
        """Encode the shard that `row` names, or return why that is refused."""
        if not self._refused:
            self._encode(row["shard"])
        return {"shard": row["shard"], "refused": self._refused}

    def _encode(self, shard: int) -> None:
        """Encode a shard; its note is written last and marks it as finished."""
        from workloads.backbones.conditioning import concatenate

        name = f"{shard:06d}"
        table = pq.read_table(io.BytesIO(self._store.read(f"{self._text_folder}/text/{name}.parquet")))
        texts = table["prompt"].to_pylist()
        parts = [
            self._encoder.encode(texts[i : i + ENCODE_BATCH]) for i in range(0, len(texts), ENCODE_BATCH)
        ]
        conditioning = concatenate(parts)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "shard.parquet"
            extra = {name: make(texts) for name, make in self._makers.items()}
            write_shard(path, texts, conditioning, extra)
            self._store.write(f"{self._folder}/{name}.parquet", path.read_bytes())
            _, tokens, width = conditioning.embeddings.shape
            note: ShardNote = {
                "sha256": file_digest(path),
                "bytes": path.stat().st_size,
                "tokens": tokens,
                "width": width,
            }
        self._store.write_json(f"{self._folder}/{name}.json", note)


def _read(settings: Prompts) -> tuple[list[str], list[Row]]:
    """Return all usable prompts in order, and the bad rows."""
    count = caption_count(settings.source)
    if count is not None:
        return captions(count, SEED), []
    files = list_files(settings.source)
    dataset = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
    dataset = dataset.flat_map(ReadFile(settings.column), num_cpus=DATA_CPUS)
    texts, bad = [], []
    for row in dataset.iter_rows():
        if row["reason"]:
            bad.append(Row(**row))
        else:
            texts.append(row["prompt"])
    return texts, bad


class ReadFile:
    """Ray Data stage that yields the rows of a file in order."""

    def __init__(self, column: str | None) -> None:
        self._column = column

    def __call__(self, item: dict[str, str]) -> Iterator[dict[str, object]]:
        return (asdict(row) for row in read_rows(item["file"], self._column))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
