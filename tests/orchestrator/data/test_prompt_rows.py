"""Prompt files but tables: every row is a prompt or has a reason, for every kind of file."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.prompt_rows import read_rows


def rows(path: Path, column: str | None = None) -> tuple[list[str], list[tuple[int, str]]]:
    found = list(read_rows(str(path), column))
    return [r.prompt for r in found if not r.reason], [(r.row, r.reason) for r in found if r.reason]


def test_text_with_bad_lines_and_windows_endings(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"a cat\r\n\n caf\xe9 \nein B\xc3\xa4r\n\xef\xbb\xbfjoined\n")
    good, bad = rows(file)
    assert good == ["a cat", "ein Bär", "joined"]
    assert bad == [(2, "empty prompt"), (3, "not UTF-8")]


def test_text_of_powershell(tmp_path: Path) -> None:
    file = tmp_path / "p.TXT"
    file.write_bytes("a fox\r\nein Bär\r\n".encode("utf-16"))
    assert rows(file) == (["a fox", "ein Bär"], [])


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"prompt": "a dog"}\n{"prompt": 3}\n{"caption": "b"}\nnot json\n{"other": 1}\n[1]\n"bare"\n'
        '{"prompt": NaN}\n{"prompt": null}\n\ufeff{"Prompt": "c"}\n'
    )
    good, bad = rows(file)
    assert good == ["a dog", "b", "bare", "c"]
    reasons = ["the prompt is not text but int", "not valid JSON",
               "no column named prompt, caption, text; there are: 'other'",
               "the prompt is not text but list", "no prompt", "no prompt"]  # fmt: skip
    assert bad == list(zip([2, 4, 5, 6, 8, 9], reasons, strict=True))


RECORDS: list[dict[str, Any]] = [{"prompt": "a fox"}, {"prompt": 1}, {"prompt": "a cat"}]


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.JSON"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\ufeff\n" + json.dumps(RECORDS, indent=2) + "\n",
        "\n".join(json.dumps(record) for record in RECORDS),
        "\n".join(json.dumps(record, indent=2) for record in RECORDS),  # as jq prints them
    ],
    ids=["line", "indented", "marked", "lines", "objects"],
)
def test_json_is_lines_or_one_list_or_objects(content: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    assert rows(file) == (["a fox", "a cat"], [(2, "the prompt is not text but int")])


@pytest.mark.parametrize("indent", [None, 1])
def test_captions_of_coco(indent: int | None, tmp_path: Path) -> None:
    file = tmp_path / "captions_val2014.json"
    pictures = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    annotations = [{"image_id": 1, "caption": "a fox"}, {"image_id": 2, "caption": "a cat"}]
    content = {"info": {"year": 2014}, "images": pictures, "licenses": [], "annotations": annotations}
    file.write_text(json.dumps(content, indent=indent))
    assert rows(file) == (["a fox", "a cat"], [])
    ((number, reason),) = rows(file, "text")[1]
    assert number == 1 and reason.endswith("there are: 'info', 'images', 'licenses', 'annotations'")


def test_a_torn_first_line_is_one_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a\n{"prompt": "b\u2028c"}\n["one", "two"]\n')
    assert rows(file) == (["b c", "one", "two"], [(1, "not valid JSON")])


def test_imagefolder_metadata(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"file_name": "1.png", "text": "a fox"}\n{"file_name": "2.png", "text": "a cat"}\n')
    assert rows(file) == (["a fox", "a cat"], [])


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table({"Prompt": ["one", None, "two"]}), file)
    assert rows(file) == (["one", "two"], [(2, "no prompt")])
    assert rows(file, "words")[1][0] == (1, "no column 'words'; there are: 'Prompt'")


def test_several_captions_of_one_picture_are_prompts_each(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    captions = pa.array([["a fox", "a red fox"], None, [], ["a cat"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"caption": captions}), file)
    assert rows(file) == (
        ["a fox", "a red fox", "a cat"],
        [(2, "no prompt"), (3, "the prompt is not text but list")],
    )


def test_a_struct_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table({"caption": [{"en": "a fox", "de": "ein Fuchs"}]}), file)
    assert rows(file) == ([], [(1, "the prompt is not text but dict of 'en', 'de'")])


@pytest.mark.parametrize("content", [b"PAR1 torn", b""])
def test_damaged_parquet_is_one_bad_row(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "p.parquet"
    file.write_bytes(content)
    good, bad = rows(file)
    assert good == [] and len(bad) == 1 and bad[0][1].startswith("the file cannot be read: ")


@pytest.mark.parametrize(
    ("name", "content"), [("p.txt", b""), ("p.jsonl", b""), ("p.csv", b"prompt\n"), ("q.csv", b"")]
)
def test_an_empty_file_is_counted(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path / name) == ([], [(0, "the file holds no rows")])


def test_compressed_files(tmp_path: Path) -> None:
    line = b'{"prompt": "a fox"}\n'
    for name, packed in {"p.jsonl.gz": gzip.compress(line), "p.JSONL.BZ2": bz2.compress(line)}.items():
        (tmp_path / name).write_bytes(packed)
        assert rows(tmp_path / name) == (["a fox"], [])
    torn = tmp_path / "p.csv.gz"
    torn.write_bytes(gzip.compress(b"prompt\n" + b"a fox\n" * 50_000)[:300])
    good, bad = rows(torn)
    assert len(good) > 1000
    assert bad[0][1].startswith(f"the file cannot be read after row {len(good)}: ")
