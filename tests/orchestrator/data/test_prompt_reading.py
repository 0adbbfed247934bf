"""Prompt files in tasks of Ray: a function of the files' sizes and order, each task without Ray."""

from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.data import prompt_reading
from orchestrator.data.prompt_files import PromptFile, list_files
from orchestrator.data.prompt_reading import BYTES_PER_TASK, FILES_PER_TASK, ReadFiles, group_files


def files(*sizes: int) -> list[PromptFile]:
    return [PromptFile(f"{number}.txt", f"{number}.txt", size) for number, size in enumerate(sizes)]


def test_small_files_share_a_task_and_a_large_one_has_its_own() -> None:
    many = group_files(files(*[60] * 3000))
    assert [len(task) for task in many] == [FILES_PER_TASK] * 3
    large = group_files(files(1, 2, BYTES_PER_TASK + 1, 3, BYTES_PER_TASK - 3, 1))
    assert large == [range(2), range(2, 3), range(3, 5), range(5, 6)]
    assert not group_files([])


@pytest.mark.parametrize("uri", [False, True])
def test_rows_of_a_task_are_in_the_order_of_its_files(
    uri: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_reading, "ROWS_PER_BLOCK", 7)
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"{number} a\n\n{number} b\n")
    found = list_files(tmp_path.as_uri() if uri else str(tmp_path))
    task = {"first": 5, "names": found.names[5:], "paths": [file.path for file in found.files[5:]]}
    rows = pa.concat_tables(ReadFiles(found.source, None)(pa.Table.from_pylist([task]))).to_pylist()
    used = [row["prompt"] for row in rows if not row["reason"]]
    assert used == [f"{number} {letter}" for number in range(5, 40) for letter in "ab"]
    assert [row["file"] for row in rows if row["reason"]] == list(range(5, 40))
