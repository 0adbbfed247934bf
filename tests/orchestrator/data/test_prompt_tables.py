"""Tables of prompts: quotation marks that do not close, exports of spreadsheets, names of columns."""

from pathlib import Path

import pytest

from orchestrator.data.prompt_rows import read_rows
from orchestrator.data.prompt_tables import find_column


def rows(path: Path, column: str | None = None) -> tuple[list[str], list[tuple[int, str]]]:
    found = list(read_rows(str(path), column))
    return [r.prompt for r in found if not r.reason], [(r.row, r.reason) for r in found if r.reason]


def opens(line: int) -> str:
    return f"a quotation mark opens in line {line} and does not close"


def test_csv_with_quotes_and_a_short_row(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('id,text\n1,"two, three"\n2\n3,"line\r\nbreak"\n4,"a ""sign"""\n')
    good = ["two, three", "line break", 'a "sign"']
    assert rows(file) == (good, [(2, "1 fields where the header has 2 (line 3)")])


OPEN = [
    ("to-the-end", 'prompt,n\n"an open mark,1\na cat,2\na dog,3\n', ["a cat", "a dog"], [(1, opens(2))]),
    ("one-column", 'caption\n"Sunset" over the sea\n"an old harbour, long\na cat\n',
     ["Sunset over the sea", "a cat"], [(2, opens(3))]),
    ("last-line", 'prompt\na cat\n"a dog', ["a cat"], [(2, opens(3))]),
    # pandas-dev/pandas 22661, apple/turicreate 1692, cldf/csvw 52
    ("typographic", 'Row,text\n1,"unclosed”\n2,Lorem\n3,ipsum\n', ["Lorem", "ipsum"], [(1, opens(2))]),
    ("closed-by-a-later-row", 'prompt,n\nfirst,1\n"open,2\na cat,3\n"a dog, big",4\nlast,5\n',
     ["first", "a cat", "a dog, big", "last"], [(2, opens(3))]),
    ("twice", 'prompt,n\n"one,1\na cat,2\n"two,3\na dog,4\n',
     ["a cat", "a dog"], [(1, opens(2)), (3, opens(4))]),
    ("megabytes", 'prompt,n\n"open,1\n' + "a cat,2\n" * 40_000, ["a cat"] * 40_000, [(1, opens(2))]),
    ("after-two-lines", 'prompt,n\n"a\nb",1\n"open,2\na cat,3\n', ["a b", "a cat"], [(2, opens(4))]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "good", "bad"), [each[1:] for each in OPEN], ids=[each[0] for each in OPEN]
)
def test_an_open_quotation_mark_takes_no_other_row_with_it(
    content: str, good: list[str], bad: list[tuple[int, str]], tmp_path: Path
) -> None:
    file = tmp_path / "p.csv"
    file.write_text(content)
    assert rows(file) == (good, bad)


def test_tsv_keeps_bare_quotation_marks(tmp_path: Path) -> None:
    file = tmp_path / "p.tsv"
    file.write_text('Prompt\tNote\na "quoted sign\tx\n"another\ty\n')
    assert rows(file, "Prompt") == rows(file) == (['a "quoted sign', '"another'], [])


EXPORTS = [
    ("utf16", "prompt,n\r\na red fox,1\r\nein Bär,2\r\n".encode("utf-16"), ["a red fox", "ein Bär"]),
    ("utf16-big", b"\xfe\xff" + "prompt\nein Bär\n".encode("utf-16-be"), ["ein Bär"]),
    ("utf16-tabs", "n\tprompt\r\n1\ta fox, red\r\n".encode("utf-16"), ["a fox, red"]),
    ("utf8-mark", b"\xef\xbb\xbfprompt,n\r\na red fox,1\r\n", ["a red fox"]),
    ("semicolons", b"prompt;n\r\na red fox;1\r\na car, blue;2\r\n", ["a red fox", "a car, blue"]),
    ("names-the-delimiter", b"sep=;\r\nprompt;n\r\na red fox;1\r\n", ["a red fox"]),
    ("blanks", b'id, prompt\n1, "a fox, red"\n', ["a fox, red"]),
    ("capital", b"ID,Prompt\n1,a fox\n", ["a fox"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "good"), [each[1:] for each in EXPORTS], ids=[each[0] for each in EXPORTS]
)
def test_exports_of_spreadsheets(content: bytes, good: list[str], tmp_path: Path) -> None:
    file = tmp_path / "p.CSV"
    file.write_bytes(content)
    assert rows(file) == (good, [])


def test_a_torn_utf16_file_keeps_its_good_rows(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_bytes("prompt\na fox\na cat\na d".encode("utf-16")[:-1])
    good, bad = rows(file)
    assert good == ["a fox", "a cat"]
    assert len(bad) == 1 and bad[0][1].startswith("the file cannot be read after row 2: ")


def test_joined_files_repeat_header_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("\ufeffprompt,n\na,1\n\ufeffprompt,n\n\ufeffb,2\n")
    assert rows(file) == (["a", "b"], [(2, "repeats the header (line 3)")])


def test_missing_values_are_no_prompts(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("prompt,n\nnan,1\na nan bread,2\n,3\nNULL,4\n")
    assert rows(file) == (
        ["a nan bread"],
        [(1, "no prompt but nan"), (3, "empty prompt"), (4, "no prompt but NULL")],
    )


def test_a_missing_column_is_answered_with_those_there(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("a,b\n1,2\n")
    assert rows(file, "prompt") == ([], [(1, "no column 'prompt'; there are: 'a', 'b'")])
    file.write_text(",".join(map(str, range(20))) + "\n" + "," * 19 + "\n")
    ((_, reason),) = rows(file)[1]
    assert reason.endswith("'6', '7' and 12 more")


@pytest.mark.parametrize(
    ("names", "column", "found"),
    [
        (["caption", "prompt"], None, "prompt"),
        (["Prompt", "text"], None, "text"),
        ([" Prompt ", "n"], None, " Prompt "),
        (["PROMPT", "prompt"], "prompt", "prompt"),
        (["Prompt"], "prompt", "Prompt"),
        (["prompts"], "prompt", None),
    ],
)
def test_an_equal_name_comes_before_a_similar_one(
    names: list[str], column: str | None, found: str | None
) -> None:
    assert find_column(names, column) == found
