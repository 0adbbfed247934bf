"""Tables of prompts: the column that holds them, and the rows of .csv and .tsv files.

A row that cannot be parsed takes no other with it: after a quotation mark that does not close, reading goes
on with the next line.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

COLUMNS = ("prompt", "caption", "text")
DELIMITERS = (",", ";", "\t")
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""First line with which Excel marks the delimiter."""
MISSING = ("nan", "NaN", "null", "NULL", "None", "<NA>", "N/A", "#N/A")
"""Cells that pandas and spreadsheets write for a missing value."""


@dataclass(frozen=True)
class BadRow:
    """A row that is not usable."""

    reason: str


def find_column(names: Sequence[str], column: str | None) -> str | None:
    """Return the name of the column of prompts, or None.

    It is `column`, else the first of `COLUMNS`. A name that is equal comes before one that differs in case
    or has blanks around it.
    """
    wanted = COLUMNS if column is None else (column,)
    exact = next((name for name in wanted if name in names), None)
    if exact is not None:
        return exact
    plain = {name.strip("\ufeff \t").casefold(): name for name in reversed(names)}
    return next((plain[key] for name in wanted if (key := name.strip().casefold()) in plain), None)


def missing_column(names: Sequence[str], column: str | None) -> BadRow:
    """Return a bad row that says which column is wanted and which there are."""
    there = ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    wanted = f"no column {column!r}" if column else f"no column named {', '.join(COLUMNS)}"
    return BadRow(f"{wanted}; there are: {there[:300] or 'none'}")


def read_table(text: Iterable[str], tabs: bool, column: str | None) -> Iterator[Any]:
    """Yield each row's value: the cell of the wanted column, or a `BadRow`.

    Args:
        text: lines with their ends.
        tabs: True for .tsv, in which quotation marks mean nothing: published sets (PartiPrompts) contain bare
            ones.
        column: name of the column; None for the first of `COLUMNS`.

    Raises:
        ValueError: the header cannot be parsed.
    """
    lines = _Lines(text)
    records = _records(lines, _format(lines, tabs, column))
    header, _ = next(records, ([], ""))
    if isinstance(header, BadRow):
        raise ValueError(f"its header: {header.reason}")
    name = find_column(header, column)
    for row, place in records:
        if isinstance(row, BadRow):
            yield row
        elif name is None:
            yield missing_column(header, column)
        else:
            yield _cell(row, header, header.index(name), place)


def _cell(row: list[str], header: list[str], index: int, place: str) -> str | BadRow:
    if not row:
        return BadRow("empty line")
    if len(row) != len(header):
        return BadRow(f"{len(row)} fields where the header has {len(header)} ({place})")
    if [cell.lstrip("\ufeff") for cell in row] == header:
        return BadRow(f"repeats the header ({place})")
    return BadRow(f"no prompt but {row[index]}") if row[index].strip() in MISSING else row[index]


ReaderFactory = Callable[..., Iterator[list[str]]]
"""`csv.reader` with the format of a file."""


def _format(lines: "_Lines", tabs: bool, column: str | None) -> ReaderFactory:
    """Return the reader for a file by its first line, and skip that line if it only names a delimiter."""
    first = next(lines, "")
    if tabs:
        lines.put_back()
        return partial(csv.reader, delimiter="\t", quoting=csv.QUOTE_NONE)
    if marked := SEPARATOR_LINE.fullmatch(first):
        return partial(csv.reader, delimiter=marked[1])
    lines.put_back()
    headers = {delimiter: _split(first, delimiter) for delimiter in DELIMITERS}
    found = (delimiter for delimiter, names in headers.items() if find_column(names, column) is not None)
    delimiter = next(found, ",")
    blanks = any(name.startswith(" ") for name in headers[delimiter])
    return partial(csv.reader, delimiter=delimiter, skipinitialspace=blanks)


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


class _Lines:
    """Iterator over the lines of a text that remembers those of the current record and can repeat them."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._again = iter(lines), deque[str]()
        self.first = 1
        """Number of the current record's first line, from 1."""
        self.taken: list[str] = []
        """Lines of the current record."""
        self.ended = False
        """True if the record asked for a line after the last one."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        return line

    def begin_record(self) -> None:
        self.first += len(self.taken)
        self.taken, self.ended = [], False

    def put_back(self, kept: int = 0) -> None:
        """Give all but the first `kept` lines of the record again."""
        self._again.extendleft(reversed(self.taken[kept:]))
        del self.taken[kept:]

    @property
    def place(self) -> str:
        last = self.first + len(self.taken) - 1
        return f"line {last}" if last == self.first else f"lines {self.first} to {last}"


def _records(lines: _Lines, make_reader: ReaderFactory) -> Iterator[tuple[list[str] | BadRow, str]]:
    """Yield the records of a table with their lines.

    Python's reader is lenient: it accepts a quotation mark that never closes, and one that closes in the
    middle of a later row. Such a record is set aside alone, and its later lines are read again.
    """
    reader = make_reader(lines)
    while True:
        lines.begin_record()
        try:
            row: list[str] | BadRow = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = BadRow(f"{error} ({lines.place})")
        several = len(lines.taken) > 1
        if lines.ended or (several and (isinstance(row, BadRow) or not _is_strict(lines, make_reader))):
            lines.put_back(kept=1)
            row = BadRow(f"a quotation mark opens in line {lines.first} and does not close")
            reader = make_reader(lines)
        yield row, lines.place


def _is_strict(lines: _Lines, make_reader: ReaderFactory) -> bool:
    """Return True if each quotation mark of the current record closes at the end of a field."""
    try:
        return len(list(make_reader(lines.taken, strict=True))) == 1
    except csv.Error:
        return False
