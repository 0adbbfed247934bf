"""Prompt files: every row is a prompt or has a reason, for every kind of file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.common.errors import UserError
from orchestrator.data.prompt_files import _named, list_files
from orchestrator.data.prompt_rows import read_rows


def rows(path: Path, column: str | None = None) -> tuple[list[str], list[tuple[int, str]]]:
    found = list(read_rows(str(path), column))
    return [r.prompt for r in found if not r.reason], [(r.row, r.reason) for r in found if r.reason]


def test_text_with_bad_lines_and_windows_endings(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"a cat\r\n\n caf\xe9 \nein B\xc3\xa4r\n")
    good, bad = rows(file)
    assert good == ["a cat", "ein Bär"]
    assert bad == [(2, "empty prompt"), (3, "not UTF-8")]


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a dog"}\n{"prompt": 3}\n{"caption": "b"}\nnot json\n{"other": 1}\n[1]\n"bare"\n'
    )
    good, bad = rows(file)
    assert good == ["a dog", "b", "bare"]
    reasons = ["the prompt is not text but int", "not valid JSON",
               "no column named prompt, caption, text", "the prompt is not text but list"]  # fmt: skip
    assert bad == list(zip([2, 4, 5, 6], reasons, strict=True))


def test_csv_with_quotes_and_a_short_row(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('id,text\n1,"two, three"\n2\n3,"line\nbreak"\n')
    assert rows(file) == (["two, three", "line break"], [(2, "1 fields where the header has 2")])


def test_tsv_keeps_bare_quotation_marks(tmp_path: Path) -> None:
    file = tmp_path / "p.tsv"
    file.write_text('Prompt\tNote\na "quoted sign\tx\nanother\ty\n')
    assert rows(file, "Prompt") == (['a "quoted sign', "another"], [])


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": ["one", None, "two"]}), file)
    assert rows(file) == (["one", "two"], [(2, "no prompt")])


def test_missing_column_makes_every_row_bad(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("a,b\n1,2\n")
    assert rows(file, "prompt") == ([], [(1, "no column 'prompt'")])


@pytest.mark.parametrize("content", [b"PAR1 torn", b""])
def test_damaged_parquet_is_one_bad_row(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "p.parquet"
    file.write_bytes(content)
    good, bad = rows(file)
    assert good == [] and len(bad) == 1 and bad[0][1].startswith("the file cannot be read: ")


def test_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl", "notes.md", "sub/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [Path(name).name for name in list_files(str(tmp_path)).names] == ["a.jsonl", "b.txt", "c.csv"]


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list_files(str(tmp_path / "nowhere.txt"))
    (tmp_path / "x.md").write_text("x")
    with pytest.raises(UserError, match=r"no file of \.txt"):
        list_files(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "path", "file", "named"),
    [
        ("s3://b/p?region=eu", "b/p", "b/p/c/a 1.txt", "s3://b/p/c/a%201.txt?region=eu"),
        ("gs://b/p/", "b/p/", "b/p/a.txt", "gs://b/p/a.txt"),
        (
            "abfss://c@n.dfs.core.windows.net/p",
            "c/p",
            "c/p/a.txt",
            "abfss://c@n.dfs.core.windows.net/p/a.txt",
        ),
        (
            "abfss://c@n.dfs.core.windows.net/a.txt",
            "c/a.txt",
            "c/a.txt",
            "abfss://c@n.dfs.core.windows.net/a.txt",
        ),
    ],
)
def test_file_uris_keep_account_and_query(source: str, path: str, file: str, named: str) -> None:
    """Without account and query, no other process could open the file."""
    assert _named(source, path, file) == named


def test_files_of_a_uri_with_odd_names_open(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    for name in ("x y.txt", "100%20.txt"):
        (folder / name).write_text(f"{name}\n")
    files = list_files(folder.as_uri()).names
    assert {row.prompt for file in files for row in read_rows(file, None)} == {"x y.txt", "100%20.txt"}
