"""Logging of the commands: plain lines on standard output, without credentials.

Every module logs to `logging.getLogger(__name__)`; `configure` sends the lines to the screen. `--verbose`
adds the project's debug lines; `--debug` adds the libraries' logs and full tracebacks.
"""

import logging
import sys
from enum import IntEnum
from typing import TextIO

from orchestrator.common.redaction import redact

PACKAGES = ("orchestrator", "workloads")


class Verbosity(IntEnum):
    """Amount of output of a command."""

    NORMAL = 0
    VERBOSE = 1
    DEBUG = 2


class RedactionFilter(logging.Filter):
    """Replaces credentials in every log line and traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Format the line and its traceback, and remove credentials from both."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            # The formatter prints this text instead of formatting the exception.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stdout`, which a live table replaces while it is shown."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def configure(verbosity: Verbosity) -> None:
    """Send the project's log lines to standard output; calling it again changes the verbosity."""
    handler = _StdoutHandler()
    handler.addFilter(RedactionFilter())
    detailed = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(detailed if verbosity == Verbosity.DEBUG else logging.Formatter("%(message)s"))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if verbosity else logging.INFO)
        logger.handlers, logger.propagate = [handler], False
    if verbosity == Verbosity.DEBUG:
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
