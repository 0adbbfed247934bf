"""Output that cannot be shown: its reader has gone, its disk is full, its encoding lacks the letters."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

REPOSITORY = Path(__file__).parents[3]
COMMAND = """
import logging, sys
from orchestrator.common.logs import configure
from orchestrator.common.standard_streams import prepare_streams
prepare_streams()
configure(0)
for number in range(3):
    print("caf\\xe9 \\udce9", flush=True)
    logging.getLogger("orchestrator").info("\\u732b")
open(sys.argv[1], "w").write(str(sys.stdout.isatty()))
"""


def printed(done: Path, stdout: IO[bytes] | int, **environment: str) -> tuple[int, str, str]:
    """Status, output and errors of a command that prints to `stdout`, and writes `done` at its end."""
    command = subprocess.run(
        [sys.executable, "-c", COMMAND, str(done)], cwd=REPOSITORY, env=os.environ | environment,
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert done.read_text() == "False"
    return command.returncode, (command.stdout or b"").decode("latin-1"), command.stderr.decode()


def test_a_reader_that_has_seen_enough_does_not_end_the_work(tmp_path: Path) -> None:
    """As `| head`: neither an error nor another status."""
    reader, writer = os.pipe()
    os.close(reader)
    assert printed(tmp_path / "done", writer) == (0, "", "")
    os.close(writer)


def test_a_full_disk_under_the_output_is_said_once(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        status, _, error = printed(tmp_path / "done", full)
    assert status == 0
    assert error == "standard output cannot be written: No space left on device; going on without\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_lacks_are_escaped(encoding: str, tmp_path: Path) -> None:
    status, shown, error = printed(tmp_path / "done", subprocess.PIPE, PYTHONIOENCODING=f"{encoding}:strict")
    assert (status, error) == (0, "") and shown.count("\\u732b\n") == 3 == shown.count("\\udce9\n")


def test_an_output_that_was_closed_before_the_start_is_none(tmp_path: Path) -> None:
    shell = '"$0" -c "$1" "$2" >&-'
    closed = subprocess.run(
        ["sh", "-c", shell, sys.executable, COMMAND, str(tmp_path / "done")], cwd=REPOSITORY, stderr=-1
    )
    assert (closed.returncode, closed.stderr) == (0, b"") and (tmp_path / "done").exists()
