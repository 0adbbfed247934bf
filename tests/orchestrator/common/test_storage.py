"""Storage: files, folders, digests and errors."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.results.ledger import last_line


def test_what_is_written_is_read_and_nothing_is_left_beside(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_json("a/b.json", {"x": 1})
    assert store.read_json("a/b.json") == {"x": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    assert not store.exists("a/c.json")


def test_a_folder_travels(tmp_path: Path) -> None:
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/sub/file").write_text("text")
    store = Store(str(tmp_path / "store"))
    store.put_folder(tmp_path / "from", "to")
    with store.folder("to") as folder:
        assert (folder / "sub/file").read_text() == "text"


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"storage .*: cannot be written: "):
        Store(str(tmp_path / "file")).check_writable()


def test_the_line_of_a_traceback_that_matters() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no such thing\n\n'
    assert last_line(text) == "ValueError: no such thing"


def test_a_copy_of_a_folder_can_do_without_parts(tmp_path: Path) -> None:
    """As of a bucket, which this folder stands for: the other parts are not fetched."""
    store = Store(str(tmp_path))
    for name in ("model_index.json", "vae/a", "vae/deep/b", "text_encoder/c"):
        store.write(f"student/{name}", name.encode())
    store.local = False
    for without, missing in (((), set()), (("text_encoder",), {"text_encoder/c"})):
        with store.folder("student", without=without) as copy:
            found = {
                str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*") if path.is_file()
            }
        assert copy != tmp_path / "student" and set(found) == set(found.values())
        assert found.keys() == {"model_index.json", "vae/a", "vae/deep/b", "text_encoder/c"} - missing
