"""Prompt files to rows: every row is a prompt, or has a reason why it is not usable.

A bad row does not stop the others. This module does not use Ray: `prompt_encoding` runs it as a Ray Data
stage.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import refuse_credentials

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
COLUMNS = ("prompt", "caption", "text")
MAX_CHARACTERS = 10_000
UNREADABLE = (OSError, ValueError, MemoryError, OverflowError, pa.ArrowException)
"""Exceptions of pyarrow and Python for files whose content does not match their suffix."""


@dataclass(frozen=True)
class Row:
    """One row of a file: its prompt, or the reason why it is not usable."""

    file: str
    row: int
    """Number of the record (not of the line), from 1, without a header."""
    prompt: str
    reason: str = ""


def list_files(source: str) -> list[str]:
    """Return the prompt files of `source`, sorted: itself, or those below a folder.

    Raises:
        UserError: it contains credentials, does not exist, or has no file of a known suffix.
    """
    refuse_credentials("prompts.source", source)
    try:
        system, path = _open(source)
        found = system.get_file_info(path)
        if found.type == fs.FileType.Directory:
            below = system.get_file_info(fs.FileSelector(path, recursive=True))
            files = sorted(info.path for info in below if info.is_file and info.path.endswith(SUFFIXES))
        elif found.type == fs.FileType.File:
            files = [path] if path.endswith(SUFFIXES) else []
        else:
            raise UserError(f"prompts.source {source}: no such file or folder")
    except (OSError, ValueError) as error:
        raise UserError(f"prompts.source {source}: cannot be opened: {_first_line(error)}") from None
    if not files:
        raise UserError(f"prompts.source {source}: no file of {' '.join(SUFFIXES)} there")
    return [_named(source, path, file) for file in files] if "://" in source else files


def _named(source: str, path: str, file: str) -> str:
    """Return the URI of `file`, which lies at or below `path`, pyarrow's path of the URI `source`.

    Only the source has the account of an Azure store and the query of a bucket.
    """
    place, mark, query = source.partition("?")
    below = quote(file.removeprefix(path).strip("/"))
    return f"{place.rstrip('/')}/{below}{mark}{query}" if below else source


def read_rows(file: str, column: str | None) -> Iterator[Row]:
    """Yield all rows of `file` in order; a file that cannot be read yields one bad row."""
    try:
        for index, value in enumerate(_values(file, column), 1):
            prompt, reason = _checked(value)
            yield Row(file, index, prompt, reason)
    except UNREADABLE as error:
        yield Row(file, 0, "", f"the file cannot be read: {_first_line(error)}")


def _open(source: str) -> tuple[fs.FileSystem, str]:
    if "://" in source:
        system, path = fs.FileSystem.from_uri(source)
        return system, path
    return fs.LocalFileSystem(), source


def _checked(value: Any) -> tuple[str, str]:
    """Return (prompt, "") or ("", reason)."""
    if isinstance(value, BadRow):
        return "", value.reason
    if value is None:
        return "", "no prompt"
    if not isinstance(value, str):
        return "", f"the prompt is not text but {type(value).__name__}"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "", "not UTF-8"
    if "\0" in value:
        return "", "not text: it holds a NUL character"
    text = " ".join(value.split())
    if not text:
        return "", "empty prompt"
    if len(text) > MAX_CHARACTERS:
        return "", f"longer than {MAX_CHARACTERS} characters"
    return text, ""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be parsed."""

    reason: str


def _values(file: str, column: str | None) -> Iterator[Any]:
    """Yield each row's value: text if the row is a prompt, anything else or a `BadRow` if not."""
    system, path = _open(file)
    if path.endswith(".parquet"):
        with system.open_input_file(path) as binary:
            yield from _parquet(pq.ParquetFile(binary), column)
        return
    with system.open_input_stream(path) as binary:
        # Bytes that are not UTF-8 become surrogates, so that only their own row is bad.
        text = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
        if path.endswith(".txt"):
            yield from (line for line in text)
        elif path.endswith(".jsonl"):
            yield from (_from_json(line, column) for line in text)
        else:
            yield from _table(text, path.endswith(".tsv"), column)


def _parquet(file: pq.ParquetFile, column: str | None) -> Iterator[Any]:
    name = _column(file.schema_arrow.names, column)
    if name is None:
        yield from (_missing(column) for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(columns=[name]):
        yield from map(_plain, batch.column(batch.schema.names.index(name)))


def _plain(value: pa.Scalar) -> Any:
    """Return a parquet value as a Python value; one that is not UTF-8 makes only its own row bad."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return BadRow("not UTF-8")
    except UNREADABLE as error:
        return BadRow(f"the value cannot be read: {_first_line(error)}")


def _from_json(line: str, column: str | None) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow("empty line" if not line.strip() else "not valid JSON")
    if not isinstance(record, dict):
        return record
    name = _column(list(record), column)
    return _missing(column) if name is None else record[name]


def _table(text: io.TextIOWrapper, tabs: bool, column: str | None) -> Iterator[Any]:
    # Published tab-separated sets (PartiPrompts) contain bare quotation marks.
    reader = csv.reader(
        text, csv.excel_tab if tabs else csv.excel, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    rows = _records(reader)
    header = next(rows, [])
    if isinstance(header, BadRow):
        raise ValueError(f"its header: {header.reason}")
    name = _column(header, column)
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        elif name is None:
            yield _missing(column)
        elif len(row) != len(header):
            yield BadRow(f"{len(row)} fields where the header has {len(header)}" if row else "empty line")
        else:
            yield row[header.index(name)]


def _records(reader: Iterator[list[str]]) -> Iterator[list[str] | BadRow]:
    """Yield the records of a table; reading continues after one that cannot be parsed (an unclosed quotation
    mark makes a field of megabytes)."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(_first_line(error))


def _column(names: list[str], column: str | None) -> str | None:
    if column is not None:
        return column if column in names else None
    return next((name for name in COLUMNS if name in names), None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _missing(column: str | None) -> BadRow:
    return BadRow(f"no column {column!r}" if column else f"no column named {', '.join(COLUMNS)}")
