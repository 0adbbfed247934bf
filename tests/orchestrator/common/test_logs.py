"""Log lines of the commands: where they go, what they hide, and how much they show."""

import logging
import os
from collections.abc import Iterator

import pytest

from orchestrator.common.library_logging import DEBUG, QUIET, prepare_libraries, process_environment
from orchestrator.common.logs import Verbosity, configure

logger = logging.getLogger("orchestrator.test_logs")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging and environment as other tests expect them."""
    before, root = dict(os.environ), list(logging.getLogger().handlers)
    yield
    os.environ.clear()
    os.environ.update(before)
    logging.getLogger().handlers[:] = root


def test_lines_are_plain_and_hide_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Verbosity.NORMAL)
    logger.info("tracking: %s", "http://me:secret@host")
    logger.debug("a detail")
    assert capsys.readouterr().out == "tracking: http://***@host\n"


def test_verbose_adds_details(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Verbosity.VERBOSE)
    logger.debug("a detail")
    assert capsys.readouterr().out == "a detail\n"


def test_debug_adds_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Verbosity.DEBUG)
    logging.getLogger("some.library").info("http://me:secret@host")
    shown = capsys.readouterr().out
    assert "INFO some.library: http://***@host" in shown


def test_tracebacks_hide_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Verbosity.DEBUG)
    try:
        raise ConnectionError("postgresql://me:secret@host is away")
    except ConnectionError:
        logging.getLogger("some.library").exception("cannot connect")
    shown = capsys.readouterr().out
    assert "ConnectionError: postgresql://***@host is away" in shown and "secret" not in shown


def test_libraries_are_quiet_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DEBUG, *QUIET):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert process_environment()["DIFFUSERS_VERBOSITY"] == "error"
    assert process_environment()["TQDM_DISABLE"] == "0", "the user's own value stays"
    prepare_libraries(debug=True)
    assert process_environment()[DEBUG] == "1" and "DIFFUSERS_VERBOSITY" not in process_environment()
