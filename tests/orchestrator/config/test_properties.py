"""Properties of any input: a plan or one line, a prompt or a reason, one sequence in any split."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.common.errors import UserError
from orchestrator.config.sweep_file import load_sweep
from orchestrator.data.prompt_files import SUFFIXES
from orchestrator.data.prompt_rows import MAX_CHARACTERS, read_rows
from orchestrator.data.prompt_tables import MISSING
from orchestrator.data.shard_order import Position, ShardSet, advance, pieces, worker_rows
from orchestrator.planning.plan import Plan, make_plan

bounded = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "prompts": {"source": "miniature:64"},
    "negative_prompts": {"source": "miniature:8", "column": "text"},
    "backbones": [{"name": "a", "model": "miniature/pixart", "train": {"steps": 5}}],
    "train": {"seed": {"values": [0, 1]}, "learning_rate": {"min": 1e-6, "max": 1e-4}, "lora": {"rank": 4}},
    "evaluate": {"sheet_prompts": ["a circle"], "scorers": ["attributes"], "teacher": {"steps": 4}},
    "infer": {
        "attention_guidance": [{"kind": "nag", "strength": {"values": [0.5, 1]}, "clip": 0}],
        "pairs": [{"prompt": "a circle", "negative_prompt": "red", "style": "photo"}],
        "scorers": ["removal"],
    },
    "search": {"samples": 2},
    "resources": {"workers": 1},
    "budget": {"max_gpu_hours": 5},
}
SETTINGS = [
    *("steps", "batch_size", "seed", "learning_rate", "guidance_interval", "adam_betas", "timestep_range"),
    *("null_rate", "nasa_interval", "lora", "start_from", "precision", "ema_decay", "gradient_clip"),
]
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(SETTINGS), st.sampled_from(sorted(SWEEP)))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(KEYS, st.integers()), inner, max_size=3),
        st.fixed_dictionaries({"values": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"min": inner, "max": inner}),
    ),
    max_leaves=6,
)


def places(section: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all settings of a sweep."""
    items = section.items() if isinstance(section, dict) else enumerate(section)
    inside = [(key, value) for key, value in items if isinstance(section, dict | list)]
    below = [
        path for key, value in inside if isinstance(value, dict | list) for path in places(value, (*at, key))
    ]
    return [(*at, key) for key, _ in inside] + below


def plan_or_one_line(path: Path, overrides: Sequence[str] = ()) -> Plan | str:
    """The plan of a sweep file, or the one line that refuses it."""
    try:
        return make_plan(load_sweep(path, overrides))
    except UserError as error:
        text = str(error)
        assert text and text.isprintable() and len(text) <= 1100
        return text


@bounded
@given(
    st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    )
)
def test_any_file_is_a_plan_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    assert isinstance(plan_or_one_line(path), str)


@bounded
@given(st.text("{}[]&*!|>-?:,#%@`'\"\n\t aé0.<=", max_size=60))
def test_any_punctuation_is_a_plan_or_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"name: tiny\nextra: {text}\n", encoding="utf-8")
    assert isinstance(plan_or_one_line(path), str)


@settings(bounded, max_examples=300)
@given(st.sampled_from(places(SWEEP)), KEYS, VALUES, st.booleans())
def test_any_value_anywhere_is_a_plan_or_one_line(
    tmp_path: Path, place: tuple[str | int, ...], key: str, value: Any, beside: bool
) -> None:
    """`value` replaces a setting, or is added beside it under its own key."""
    sweep: Any = json.loads(json.dumps(SWEEP))
    section = sweep
    for part in place[:-1]:
        section = section[part]
    section[key if beside and isinstance(section, dict) else place[-1]] = value
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep, allow_unicode=False), encoding="utf-8")
    found = plan_or_one_line(path)
    if isinstance(found, str):
        assert found.startswith(str(path))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file without a mistake."""
    path = tmp_path_factory.mktemp("good") / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    assert isinstance(plan_or_one_line(path), Plan)
    return path


PATHS = st.sampled_from(
    [".".join(map(str, place)) for place in places(SWEEP)] + ["", ".", "backbones.a.train.x"]
)


@bounded
@given(st.one_of(st.text(max_size=30), st.tuples(PATHS, st.text(max_size=20)).map("=".join)))
def test_any_override_is_a_plan_or_one_line(good: Path, override: str) -> None:
    plan_or_one_line(good, [override])


ROWS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.just("x" * (MAX_CHARACTERS + 1)),
        st.sampled_from(["", "   ", "\0", "a\0b", "\u2028", "two  words", '"quoted"', "ein Bär"]),
    ),
    max_size=8,
)


def flattened(text: str) -> str:
    """The prompt of a row: normalised blanks, without a byte-order mark."""
    return " ".join(text.lstrip("\ufeff").split())


def usable(text: str, missing: tuple[str, ...] = ()) -> bool:
    """Return True if a row is a prompt: non-blank text, not too long, without NUL, none of `missing`."""
    flat = flattened(text)
    return bool(flat) and len(flat) <= MAX_CHARACTERS and "\0" not in flat and text.strip() not in missing


def check(path: Path, rows: list[str], missing: tuple[str, ...] = ()) -> None:
    """Check that every row is returned in order: with normalised blanks, or with a reason."""
    found = list(read_rows(str(path), None))
    if not rows:
        assert [row.reason for row in found] == ["the file holds no rows"]
        return
    assert [row.row for row in found] == list(range(1, len(rows) + 1))
    for row, text in zip(found, rows, strict=True):
        assert bool(row.reason) != usable(text, missing), (row, text)
        assert row.prompt == (flattened(text) if usable(text, missing) else "")


@bounded
@given(st.sampled_from(SUFFIXES), st.binary(max_size=300), st.sampled_from([None, "prompt", "no such"]))
def test_any_bytes_are_prompts_or_reasons(
    tmp_path: Path, suffix: str, content: bytes, column: str | None
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    for row in read_rows(str(path), column):
        assert bool(row.prompt) != bool(row.reason)
        row.prompt.encode("utf-8")
        assert len((row.prompt + row.reason).splitlines()) == 1


@bounded
@given(ROWS)
def test_rows_of_text(tmp_path: Path, rows: list[str]) -> None:
    rows = [" ".join(row.splitlines()) for row in rows]
    path = tmp_path / "rows.txt"
    path.write_bytes("".join(f"{row}\n" for row in rows).encode())
    check(path, rows)


@bounded
@given(ROWS, st.booleans())
def test_rows_of_jsonl(tmp_path: Path, rows: list[str], ascii_only: bool) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": 1, "prompt": row}, ensure_ascii=ascii_only) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    check(path, rows)


@bounded
@given(ROWS)
def test_rows_of_csv(tmp_path: Path, rows: list[str]) -> None:
    content = io.StringIO(newline="")
    csv.writer(content).writerows([["id", "prompt"], *[[1, row] for row in rows]])
    path = tmp_path / "rows.csv"
    path.write_bytes(content.getvalue().encode())
    check(path, rows, MISSING)


@bounded
@given(ROWS)
def test_rows_of_tsv(tmp_path: Path, rows: list[str]) -> None:
    rows = [" ".join(row.replace("\t", " ").splitlines()) for row in rows]
    path = tmp_path / "rows.tsv"
    path.write_bytes("".join(["id\tprompt\n", *[f"1\t{row}\n" for row in rows]]).encode())
    check(path, rows, MISSING)


@bounded
@given(ROWS)
def test_rows_of_parquet(tmp_path: Path, rows: list[str]) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": pa.array(rows, pa.string())}), path)
    check(path, rows)


@bounded
@given(st.integers(0, 2000), st.booleans())
def test_truncated_parquet_is_one_reason(tmp_path: Path, kept: int, dictionary: bool) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"prompt": ["one", "two", None]})
    pq.write_table(table, path, compression="none", use_dictionary=dictionary)
    content = path.read_bytes()
    path.write_bytes(content[: min(kept, len(content) - 1)])
    (row,) = read_rows(str(path), None)
    assert row.reason and not row.prompt


@bounded
@given(st.lists(st.binary(max_size=6), min_size=1, max_size=6))
def test_bad_utf8_in_parquet_affects_its_row_only(tmp_path: Path, rows: list[bytes]) -> None:
    path = tmp_path / "rows.parquet"
    strings = pa.Array.from_buffers(pa.string(), len(rows), pa.array(rows, pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": strings}), path)
    found = list(read_rows(str(path), None))
    assert len(found) == len(rows)
    for row, content in zip(found, rows, strict=True):
        text = content.decode("utf-8", "ignore")
        assert bool(row.reason) != (text.encode() == content and usable(text))


SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
Read = list[tuple[int, int, int]]


def read(shards: ShardSet, start: Position, rows: int, batch: int, rank: int = 0, world: int = 1) -> Read:
    """The rows that a worker reads, as (epoch, shard, row)."""
    return [
        (piece.epoch, piece.shard, int(row))
        for piece in pieces(shards, 7, start, rows)
        for row in worker_rows(shards, 7, piece, batch, rank, world)
    ]


@bounded
@given(SHARDS, st.integers(0, 60), st.lists(st.integers(0, 25), max_size=5))
def test_resumed_reading_is_uninterrupted_reading(sizes: list[int], rows: int, breaks: list[int]) -> None:
    shards = ShardSet("f", tuple(sizes), ("",) * len(sizes), 2, 3)
    position, joined = Position(), Read()
    for taken in [*breaks, rows]:
        joined += read(shards, position, taken, 1)
        position = advance(shards, 7, position, taken)
    assert joined == read(shards, Position(), sum(breaks) + rows, 1)
    every = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    for epoch in range(position.epoch):
        seen = [(shard, row) for at, shard, row in joined if at == epoch]
        assert len(seen) == len(every) and set(seen) == every


@bounded
@given(
    SHARDS, st.integers(0, 30), st.integers(1, 5), st.sampled_from([(6, 1), (6, 2), (6, 3), (6, 6), (8, 4)])
)
def test_any_number_of_workers_reads_the_same(
    sizes: list[int], skipped: int, batches: int, split: tuple[int, int]
) -> None:
    batch, world = split
    shards = ShardSet("f", tuple(sizes), ("",) * len(sizes), 2, 3)
    start = advance(shards, 7, Position(), skipped)
    whole = read(shards, start, batch * batches, batch)
    share = batch // world
    parts = [read(shards, start, batch * batches, batch, rank, world) for rank in range(world)]
    for step in range(batches):
        joined = [row for part in parts for row in part[step * share : (step + 1) * share]]
        assert joined == whole[step * batch : (step + 1) * batch]
