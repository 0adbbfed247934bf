"""Pass one of the data stage on Ray Data: the rows of all prompt files, in the order of the files.

People keep one caption in a file as well as millions in one file. Small files share a task, which opens
several at a time, since a task of Ray costs more than a file; a large file has a task of its own and is
streamed.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import ray

from orchestrator.data.prompt_files import PromptFile, PromptFiles, open_source
from orchestrator.data.prompt_rows import Row, read_file

FILES_PER_TASK, BYTES_PER_TASK = 1000, 32 * 2**20
OPEN_FILES = 16
"""Files that a task reads at a time, which hides the latency of a bucket."""
ROWS_PER_BLOCK = 8192
DATA_CPUS = 0.25
"""CPUs of each task of the data stage, which is bound by file access more than by computation."""
PROGRESS_SECONDS = 10.0
SCHEMA = pa.schema(
    [("file", pa.int64()), ("row", pa.int64()), ("prompt", pa.string()), ("reason", pa.string())]
)
"""Columns of a block of rows; `file` is the file's number in the source."""

logger = logging.getLogger(__name__)


def read_prompts(found: PromptFiles, column: str | None) -> tuple[list[str], list[Row]]:
    """Return all usable prompts in order, and the bad rows; log progress while it takes long."""
    tasks = [_task(found.files, numbers) for numbers in group_files(found.files)]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        ReadFiles(found.source, column), batch_size=1, batch_format="pyarrow", num_cpus=DATA_CPUS
    )
    texts: list[str] = []
    bad: list[Row] = []
    logged = time.monotonic()
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for file, row, prompt, reason in zip(
            *(block[name].to_pylist() for name in SCHEMA.names), strict=True
        ):
            if reason:
                bad.append(Row(found.files[file].name, row, prompt, reason))
            else:
                texts.append(prompt)
        if block.num_rows and time.monotonic() - logged > PROGRESS_SECONDS:
            logged, rows = time.monotonic(), len(texts) + len(bad)
            logger.info("reading prompts: %d rows, file %d of %d", rows, file + 1, len(found.files))
    return texts, bad


def group_files(files: Sequence[PromptFile]) -> list[range]:
    """Return the tasks that read `files`, each as the numbers of its files.

    They follow one another: at most `FILES_PER_TASK`, of `BYTES_PER_TASK` together unless it is one.
    """
    tasks: list[range] = []
    total = 0
    for number, file in enumerate(files):
        total += file.size
        if not tasks or total > BYTES_PER_TASK or len(tasks[-1]) == FILES_PER_TASK:
            tasks.append(range(number, number))
            total = file.size
        tasks[-1] = range(tasks[-1].start, number + 1)
    return tasks


def _task(files: Sequence[PromptFile], numbers: range) -> dict[str, Any]:
    """Return the row of Ray Data that stands for the files of `numbers`."""
    part = files[numbers.start : numbers.stop]
    return {
        "first": numbers.start,
        "names": [each.name for each in part],
        "paths": [each.path for each in part],
    }


class ReadFiles:
    """Ray Data stage that yields blocks with the rows of some of the files, in order."""

    def __init__(self, source: str, column: str | None) -> None:
        self._source, self._column = source, column

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        """Read the files of one task, a table of one row."""
        (task,) = tasks.to_pylist()
        rows = self._rows(task["first"], task["names"], task["paths"])
        while block := list(islice(rows, ROWS_PER_BLOCK)):
            yield pa.Table.from_pylist(block, SCHEMA)

    def _rows(self, first: int, names: list[str], paths: list[str]) -> Iterator[dict[str, Any]]:
        system, _ = open_source(self._source)

        def read(index: int) -> Iterator[dict[str, Any]]:
            for row in read_file(system, paths[index], names[index], self._column):
                yield {"file": first + index, "row": row.row, "prompt": row.prompt, "reason": row.reason}

        if len(paths) == 1:
            yield from read(0)
            return
        with ThreadPoolExecutor(OPEN_FILES) as pool:
            parts = pool.map(lambda index: list(read(index)), range(len(paths)))
            yield from chain.from_iterable(parts)
