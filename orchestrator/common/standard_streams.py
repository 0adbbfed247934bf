"""Standard output and error that can show any text, and whose end does not end the work."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class LastingStream:
    """A text stream that discards what it is given once its other end is closed or its disk is full.

    A launch of hours must not end since `| head` has seen enough, or since a terminal was closed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; return its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _discard(self, error: OSError) -> None:
        """Lead the rest to the null device, and say so on standard error unless it was a pipe's reader."""
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if error.errno != errno.EPIPE and self is sys.stdout:
            print(f"standard output cannot be written: {error.strerror}; going on without", file=sys.stderr)


def prepare_streams() -> None:
    """Make standard output and error lasting; characters that their encoding lacks are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start, as by `>&-`
            setattr(sys, name, Path(os.devnull).open("w", errors="backslashreplace"))  # noqa: SIM115
        elif not isinstance(stream, LastingStream):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, LastingStream(stream))
