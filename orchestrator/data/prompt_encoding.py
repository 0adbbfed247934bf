"""The data stage: prompt files to shards of embeddings, with Ray Data.

Two passes. The first reads and validates rows and splits the usable ones into text shards; the
second gives each text shard to an actor that holds the text encoder, so that no trainer
loads one. A digest of their inputs names the shards, so trials and sweeps share them, and a
second launch reuses them.
"""

import io
import itertools
import json
import logging
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store, file_digest
from orchestrator.config.schema import Prompts
from orchestrator.data.miniature_prompts import SEED, caption_count
from orchestrator.data.prompt_files import list_files
from orchestrator.data.prompt_reading import DATA_CPUS, read_prompts
from orchestrator.data.prompt_rows import Row
from orchestrator.data.shard_codec import write_shard
from orchestrator.data.shard_order import ShardSet
from workloads.backbones.loras.entry import TeacherSource
from workloads.miniature.world import captions
from workloads.objectives.columns import Column

ENCODE_BATCH = 64
PROGRESS_SECONDS = 20
"""Least time between two lines about progress."""
EXAMPLE_CHARACTERS = 80
"""Characters that are kept of a prompt which is longer than the encoder's tokens."""
MAX_ENCODERS, SHARDS_PER_ENCODER = 8, 64
"""Most actors of the second pass, and shards of each: loading the text encoder must pay off. A costly column
pays for an actor with every shard."""

logger = logging.getLogger(__name__)


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
    left_out: int = 0
    """Files of the source that are not read, such as hidden ones."""
    cut: Mapping[str, int] = field(default_factory=dict)
    """Prompts that are longer than the tokens of the text encoder, by name of the backbone, once encoded."""

    @property
    def prompts(self) -> int:
        return sum(self.rows)


class ShardNote(TypedDict):
    """Content of the JSON file beside a finished shard."""

    sha256: str
    bytes: int
    tokens: int
    width: int
    cut: NotRequired[int]
    """Prompts that are longer than the encoder's tokens; absent in shards of earlier versions."""
    cut_example: NotRequired[str]


def prepare_prompts(settings: Prompts, store: Store) -> PromptSet:
    """Read, validate and split the prompts of `settings` (pass one).

    Bad rows are written to `set_aside.jsonl` beside the shards, each with file, row and reason.

    Raises:
        UserError: there is no prompt file, or no usable row in any.
    """
    texts, bad, left_out = _read(settings)
    if not texts:
        example = f"the first: {_place(bad[0])}"
        raise UserError(f"prompts.source {settings.source}: no usable prompt in {len(bad)} rows; {example}")
    if bad:
        logger.warning("%s: %d rows are set aside; the first: %s", settings.source, len(bad), _place(bad[0]))
    name = digest([texts, settings.rows_per_shard])[:16]
    folder = f"prompts/{name}"
    parts = [
        texts[row : row + settings.rows_per_shard] for row in range(0, len(texts), settings.rows_per_shard)
    ]
    rows = tuple(len(part) for part in parts)
    found = PromptSet(settings.source, name, folder, rows, len(texts) + len(bad), len(bad), left_out)
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
    teacher: TeacherSource,
    encoder: str,
    store: Store,
    gpu: bool,
    columns: Sequence[Column] = (),
    negative: bool = False,
) -> ShardSet:
    """Encode every text shard with the text encoder of `teacher` (pass two).

    Args:
        encoder: digest of that text encoder and of `columns`; with the prompts it names the folder.
        columns: further columns that an objective needs for each prompt.
        negative: true if they are prompts of what pictures shall not show.

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
        progress = _Progress(teacher.source, len(todo))
        firsts = [0, *itertools.accumulate(prompts.rows)]
        rows = [{"shard": shard, "first": firsts[shard]} for shard in todo]
        shards = ray.data.from_items(rows, override_num_blocks=len(todo))
        done = shards.map(
            EncodeShard,
            fn_constructor_args=(teacher, store.root, prompts.folder, folder, tuple(columns), negative),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_encoders(len(todo), columns)),
            num_cpus=1 if _costly(columns) else DATA_CPUS,
            num_gpus=1 if gpu else 0,
        )
        for count, row in enumerate(done.iter_rows(), 1):
            if row["refused"]:
                raise UserError(row["refused"])
            progress.report(count)
        notes = _notes(prompts, folder, store)
    digests = tuple(notes[shard]["sha256"] for shard in range(len(prompts.rows)))
    cut = sum(note.get("cut", 0) for note in notes.values())
    found = ShardSet(folder, prompts.rows, digests, notes[0]["tokens"], notes[0]["width"], cut)
    if cut:
        example = next(note["cut_example"] for note in notes.values() if note.get("cut"))
        logger.warning(
            "%d of %d prompts are longer than %d tokens; the encoder of %s sees their beginning alone: %s",
            cut, found.prompts, found.tokens, teacher.source, example,
        )  # fmt: skip
    return found


def _encoders(shards: int, columns: Sequence[Column]) -> int:
    """Return the most actors that share `shards`; they start as far as the cluster has room for them."""
    return min(MAX_ENCODERS, -(-shards // (1 if _costly(columns) else SHARDS_PER_ENCODER)))


def _costly(columns: Sequence[Column]) -> bool:
    return any(column.costly for column in columns)


class _Progress:
    """Logs how many shards are encoded, now and then."""

    def __init__(self, source: str, shards: int) -> None:
        self._source, self._shards, self._last = source, shards, time.monotonic()

    def report(self, done: int) -> None:
        """Log unless the last line is recent, or nothing is left to do."""
        if done < self._shards and time.monotonic() - self._last > PROGRESS_SECONDS:
            self._last = time.monotonic()
            logger.info("encoded %d of %d shards for %s", done, self._shards, self._source)


def _notes(prompts: PromptSet, folder: str, store: Store) -> dict[int, ShardNote]:
    """Return the notes of all finished shards, by number."""
    files = store.sizes(folder)
    done = [shard for shard in range(len(prompts.rows)) if f"{shard:06d}.json" in files]
    return {shard: store.read_json(f"{folder}/{shard:06d}.json") for shard in done}


class EncodeShard:
    """A Ray Data actor that holds a text encoder and turns text shards into embeddings."""

    def __init__(
        self,
        teacher: TeacherSource,
        root: str,
        text_folder: str,
        folder: str,
        columns: Sequence[Column],
        negative: bool,
    ) -> None:
        from orchestrator.common.devices import process_device
        from workloads.backbones.prompts.text_encoder import TextEncoder

        self._refused, self._source = "", teacher.source
        try:
            device = process_device()
            self._encoder = TextEncoder(teacher.source, device, teacher.loras)
            self._makers = {column.name: column.open(teacher, device) for column in columns}
        except (
            UserError,
            ValueError,
        ) as error:  # a row takes it to the driver, where Ray would show a traceback
            self._refused = str(error)
        self._store = Store(root)
        self._text_folder, self._folder, self._negative = text_folder, folder, negative

    def __call__(self, row: dict[str, int]) -> dict[str, object]:
        """Encode the shard that `row` names, or return why that is refused."""
        try:
            if not self._refused:
                self._encode(row["shard"], row["first"])
        except ValueError as error:
            self._refused = f"backbone {self._source!r}: {error}"
        return {"shard": row["shard"], "refused": self._refused}

    def _encode(self, shard: int, first: int) -> None:
        """Encode a shard, given its first row's number; its note is written last and marks it as finished."""
        from workloads.backbones.prompts.conditioning import concatenate

        name = f"{shard:06d}"
        table = pq.read_table(io.BytesIO(self._store.read(f"{self._text_folder}/text/{name}.parquet")))
        texts = table["prompt"].to_pylist()
        parts = [
            self._encoder.encode(texts[i : i + ENCODE_BATCH], negative=self._negative)
            for i in range(0, len(texts), ENCODE_BATCH)
        ]
        conditioning = concatenate(parts)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "shard.parquet"
            extra = {name: make(texts, first) for name, make in self._makers.items()}
            write_shard(path, texts, conditioning, extra)
            self._store.write(f"{self._folder}/{name}.parquet", path.read_bytes())
            _, tokens, width = conditioning.embeddings.shape
            ends = self._encoder.dropped(texts, negative=self._negative)
            cut = [text for text, end in zip(texts, ends, strict=True) if end is not None]
            note: ShardNote = {
                "sha256": file_digest(path),
                "bytes": path.stat().st_size,
                "tokens": tokens,
                "width": width,
                "cut": len(cut),
                "cut_example": textwrap.shorten(cut[0], EXAMPLE_CHARACTERS) if cut else "",
            }
        self._store.write_json(f"{self._folder}/{name}.json", note)


def _place(row: Row) -> str:
    return f"{row.file} row {row.row}: {row.reason}"


def _read(settings: Prompts) -> tuple[list[str], list[Row], int]:
    """Return all usable prompts in order, the bad rows, and the number of files that are left out."""
    count = caption_count(settings.source)
    if count is not None:
        return captions(count, SEED), [], 0
    found = list_files(settings.source)
    if found.left_out:
        logger.info("prompts.source %s", found.describe_left_out())
    return *read_prompts(found, settings.column), len(found.left_out)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
