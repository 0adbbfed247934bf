"""Prompt files to rows: every row is a prompt, or has a reason why it is not usable.

A bad row does not stop the others. This module does not use Ray: `prompt_reading` runs it as a Ray Data
stage.
"""

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.data.prompt_files import TABLES, first_line, open_source, suffix_of
from orchestrator.data.prompt_tables import BadRow, find_column, missing_column, read_table

MAX_CHARACTERS = 10_000
UNREADABLE = (OSError, ValueError, MemoryError, OverflowError, pa.ArrowException)
"""Exceptions of pyarrow and Python for files whose content does not match their suffix."""


@dataclass(frozen=True)
class Row:
    """One row of a file: its prompt, or the reason why it is not usable."""

    file: str
    row: int
    """Number of the record (not of the line), from 1, without a header; 0 for the file as a whole."""
    prompt: str
    reason: str = ""


def read_rows(file: str, column: str | None) -> Iterator[Row]:
    """Yield all rows of the local path or URI `file`, as `read_file`."""
    system, path = open_source(file)
    return read_file(system, path, file, column)


def read_file(system: fs.FileSystem, path: str, name: str, column: str | None) -> Iterator[Row]:
    """Yield all rows of a file in order; one that cannot be read or is empty yields one bad row.

    Args:
        system: file system in which `path` lies.
        name: the file's name in the rows.
        column: name of the column of prompts; None for the first of `prompt_tables.COLUMNS`.
    """
    number = 0
    try:
        for number, value in enumerate(_values(system, path, column), 1):
            for each in _captions(value):
                prompt, reason = _checked(each)
                yield Row(name, number, prompt, reason)
        if not number:
            yield Row(name, 0, "", "the file holds no rows")
    except UNREADABLE as error:
        place = f" after row {number}" if number else ""
        yield Row(name, 0, "", f"the file cannot be read{place}: {first_line(error)}")


def _captions(value: Any) -> list[Any]:
    """Return the prompts of one row: several if it is a list of texts, as COCO and Flickr30k have them."""
    several = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    return value if several else [value]


def _checked(value: Any) -> tuple[str, str]:
    """Return (prompt, "") or ("", reason)."""
    if isinstance(value, BadRow):
        return "", value.reason
    if value is None or value != value:  # NaN differs from itself
        return "", "no prompt"
    if not isinstance(value, str):
        fields = f" of {', '.join(map(repr, value))[:200]}" if isinstance(value, dict) else ""
        return "", f"the prompt is not text but {type(value).__name__}{fields}"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "", "not UTF-8"
    if "\0" in value:
        return "", "not text: it holds a NUL character (if this is UTF-16, save it with a byte-order mark)"
    # Files that were joined have a byte-order mark at each seam.
    text = " ".join(value.lstrip("\ufeff").split())
    if not text:
        return "", "empty prompt"
    if len(text) > MAX_CHARACTERS:
        return "", f"longer than {MAX_CHARACTERS} characters"
    return text, ""


def _values(system: fs.FileSystem, path: str, column: str | None) -> Iterator[Any]:
    """Yield each row's value: text if the row is a prompt, anything else or a `BadRow` if not."""
    suffix = suffix_of(path)
    if suffix == ".parquet":
        with system.open_input_file(path) as binary:
            yield from _parquet(pq.ParquetFile(binary), column)
        return
    # The default of pyarrow knows the suffixes of compressed files in lower case alone.
    packed = pa.Codec.detect(path.lower()).name if suffix and not path.lower().endswith(suffix) else None
    with system.open_input_stream(path, compression=packed) as binary, _decoded(binary) as text:
        if suffix in TABLES:
            yield from read_table(text, suffix == ".tsv", column)
        elif suffix == ".txt":
            yield from text
        else:
            yield from _json(text, column)


def _decoded(binary: pa.NativeFile) -> TextIO:
    """Return the text of a file in UTF-8 or, by its byte-order mark, in UTF-16.

    Bytes that are neither become surrogates, so that only their own row is bad.
    """
    buffered = io.BufferedReader(binary)
    if buffered.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return io.TextIOWrapper(buffered, "utf-16", errors="surrogatepass", newline="")
    return io.TextIOWrapper(buffered, "utf-8-sig", errors="surrogateescape", newline="")


def _parquet(file: pq.ParquetFile, column: str | None) -> Iterator[Any]:
    names = file.schema_arrow.names
    name = find_column(names, column)
    if name is None:
        yield from (missing_column(names, column) for _ in range(file.metadata.num_rows))
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
        return BadRow(f"the value cannot be read: {first_line(error)}")


def _json(text: TextIO, column: str | None) -> Iterator[Any]:
    """Yield the records of JSON lines, of one list, or of objects over several lines."""
    head: list[str] = []
    for line in text:
        head.append(line)
        if line.strip():
            break
    lines = chain(head, text)
    if head and not _is_record(_parsed(head[-1]), column):
        content = "".join(lines)
        documents = _documents(content)
        if documents is not None:
            records = _records(documents[0], column) if len(documents) == 1 else documents
            yield from (_field(record, column) for record in records)
            return
        lines = chain(io.StringIO(content, newline=""))
    yield from (_field(_parsed(line), column) for line in lines)


def _is_record(value: Any, column: str | None) -> bool:
    return isinstance(value, str) or (
        isinstance(value, dict) and find_column(list(value), column) is not None
    )


def _records(document: Any, column: str | None) -> list[Any]:
    """Return the records of the only JSON value of a file: itself, or its items if it is a list.

    An object may hold them in its only list with the column, as in COCO's captions (`annotations`).
    """
    if isinstance(document, list):
        return document
    if isinstance(document, dict) and not _is_record(document, column):
        lists = [value for value in document.values() if isinstance(value, list) and value]
        fitting = [value for value in lists if isinstance(value[0], dict) and _is_record(value[0], column)]
        if len(fitting) == 1:
            return fitting[0]
    return [document]


def _documents(content: str) -> list[Any] | None:
    """Return the JSON values of which a text consists; None if it is anything else."""
    decoder, found, rest = json.JSONDecoder(), [], content.strip("\ufeff \t\r\n")
    position = 0
    try:
        while position < len(rest):
            value, position = decoder.raw_decode(rest, position)
            found.append(value)
            while rest[position : position + 1].isspace():
                position += 1
    except (ValueError, RecursionError):
        return None
    return found


def _parsed(line: str) -> Any:
    try:
        return json.loads(line.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return BadRow("empty line" if not line.strip() else "not valid JSON")


def _field(record: Any, column: str | None) -> Any:
    if not isinstance(record, dict):
        return record
    name = find_column(list(record), column)
    return missing_column(list(record), column) if name is None else record[name]
