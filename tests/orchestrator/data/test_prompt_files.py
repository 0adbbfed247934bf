"""Files of a source: which are read, in which order, which are left out, and what a refusal says."""

import os
from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.data.prompt_files import HIDDEN, JSON, PACKED, README, _named, list_files, suffix_of
from orchestrator.data.prompt_rows import read_rows


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def names(folder: Path) -> list[str]:
    return [Path(name).relative_to(folder).as_posix() for name in list_files(str(folder)).names]


def test_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "a.jsonl", "notes.md", "sub/c.csv", "same/1/c.txt", "same/2/c.txt", "UPPER.CSV")
    assert names(tmp_path) == ["UPPER.CSV", "a.jsonl", "b.txt", "same/1/c.txt", "same/2/c.txt", "sub/c.csv"]


def test_files_that_nobody_means_are_left_out_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / ".cache/prompts"  # only the names below the source count
    left_out = {
        ".ipynb_checkpoints/a-checkpoint.txt": HIDDEN, ".Trash-1000/files/b.txt": HIDDEN, "._a.csv": HIDDEN,
        "__MACOSX/a.txt": HIDDEN, "$RECYCLE.BIN/a.txt": HIDDEN, "~$x.csv": HIDDEN, "README.txt": README,
        "sub/Readme.en.txt": README, "LICENSE.txt": README, "1.json": JSON, "a.csv.gz": PACKED,
    }  # fmt: skip
    make(folder, "a.csv", "b.jsonl.gz", "readmes.txt", "x.csv~", "Thumbs.db", *left_out)
    assert names(folder) == ["a.csv", "b.jsonl.gz", "readmes.txt"]
    found = list_files(str(folder))
    assert dict(found.left_out) == left_out
    told = found.describe_left_out()
    assert "11 files are left out: " in told and "3 README or licence" in told and "\n" not in told


@pytest.mark.parametrize("name", [".hidden.txt", "README.txt", "list.json", "a.jsonl.gz"])
def test_a_file_that_is_named_is_read(name: str, tmp_path: Path) -> None:
    make(tmp_path, name)
    assert list_files(str(tmp_path / name)).names == [str(tmp_path / name)]


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("A.TXT", ".txt"),
        ("a.Csv.GZ", ".csv"),
        ("a.jsonl.zst", ".jsonl"),
        ("a.parquet.gz", None),
        ("a.tar", None),
    ],
)
def test_suffixes_have_no_case_and_may_be_compressed(path: str, suffix: str | None) -> None:
    assert suffix_of(path) == suffix


def test_a_refusal_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list_files(str(tmp_path / "nowhere.txt"))
    make(tmp_path, "x.xlsx", "captions/1.caption", "captions/1.png", "captions/.a.txt")
    with pytest.raises(UserError, match=r"x\.xlsx: is no file of \.txt .*save it as one"):
        list_files(str(tmp_path / "x.xlsx"))
    expected = (
        r"no file of \.txt .* there; there are 1 of \.caption, 1 of \.png; 1 files are left out: 1 hidden"
    )
    with pytest.raises(UserError, match=expected):
        list_files(str(tmp_path / "captions"))


def test_a_link_to_a_folder_above_repeats_no_file(tmp_path: Path) -> None:
    make(tmp_path, "prompts/a.txt", "prompts/sub/b.txt", "elsewhere/c.txt")
    for link, target in {"latest": ".", "sub/up": "..", "other": "../elsewhere"}.items():
        (tmp_path / "prompts" / link).symlink_to(target)
    assert names(tmp_path / "prompts") == ["a.txt", "other/c.txt", "sub/b.txt"]


def test_a_name_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    with pytest.raises(
        UserError, match=r"the name of a file there is not UTF-8: rename it: b'.*caf\\xe9\.txt'"
    ):
        list_files(str(tmp_path))


def test_errors_of_other_file_systems_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's file system raises the errors of httpx, which are no OSError."""

    def unreachable(_: str) -> None:
        raise RuntimeError("[Errno -2] Name or service not known\nsecond line")

    monkeypatch.setattr("orchestrator.data.prompt_files.open_source", unreachable)
    with pytest.raises(UserError, match=r"cannot be opened: \[Errno -2\] Name or service not known$"):
        list_files("hf://datasets/a/b.csv")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path, "p.txt", "prompts/a.txt")
    assert list_files("~/p.txt").names == [str(tmp_path / "p.txt")]
    assert list_files("~/prompts").names == [str(tmp_path / "prompts/a.txt")]
    assert [row.prompt for row in read_rows("~/p.txt", None)] == ["x"]


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
    """Without account and query, nobody could open the file that a message names."""
    assert _named(source, path, file) == named


def test_files_of_a_uri_with_odd_names_open(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    make(folder, "x y.txt", "100%20.txt", ".hidden/a.txt")
    files = list_files(folder.as_uri())
    assert len(files.left_out) == 1
    assert [row.prompt for name in files.names for row in read_rows(name, None)] == ["x", "x"]
