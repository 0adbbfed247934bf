"""RetryPolicy with MLflow: what cannot be recorded now is recorded when it answers again.

Records wait in a queue, in order, so that an outage stops no training. What is still waiting when
the launch ends can be made again from the storage, and is, by the same command.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

from orchestrator.common.redaction import redact

PAUSE_SECONDS = 2.0
"""Between two attempts."""
SAY_SECONDS = 30.0
"""Between two lines about an outage."""
ATTEMPTS = 5
"""Of a record that fails while MLflow answers to others: then it is given up, in words."""
OUTAGE = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
"""Error codes of MLflow with which its server, or its database, is not to be had."""
T = TypeVar("T")


def is_outage(error: Exception) -> bool:
    """Whether trying again may help; a full disk below the embedded MLflow is an outage too."""
    return isinstance(error, OSError) or getattr(error, "error_code", None) in OUTAGE


class RetryPolicy:
    """Tries again for as long as MLflow does not answer, and says so."""

    def __init__(self, say: Callable[[str], None], answers: Callable[[], bool]) -> None:
        """`answers` tells whether MLflow is up; `say` takes a line for the user."""
        self._say, self._answers = say, answers
        self._said = -SAY_SECONDS
        self.out = False
        """Whether the last attempt failed."""
        self.hurried = threading.Event()
        """Set it and nothing is tried again."""

    def call(self, work: Callable[[], T], waiting: Callable[[], int] = lambda: 1) -> T:
        """What `work` returns, once it does.

        Raises:
            MlflowException, OSError: trying again does not help, or is not wanted any more.
        """
        attempts = 0
        while True:
            try:
                done = work()
            except (MlflowException, OSError) as error:
                attempts += self._answers()
                if not is_outage(error) or attempts >= ATTEMPTS:
                    raise
                self.out = True
                self._report_outage(error, waiting())
                if self.hurried.wait(PAUSE_SECONDS):
                    raise
            else:
                if self.out:
                    self.out, self._said = False, -SAY_SECONDS
                    self._say("tracking: answers again")
                return done

    def _report_outage(self, error: Exception, waiting: int) -> None:
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            reason = _first_line(error)
            self._say(f"tracking: does not answer, {waiting} records wait, nothing is lost: {reason}")


class RetryQueue:
    """Does pieces of work in their order, on a thread of its own, with patience."""

    def __init__(self, name: str, patience: RetryPolicy, say: Callable[[str], None]) -> None:
        self._patience, self._say = patience, say
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces that are not done, about."""
        return self._queue.qsize() + 1

    def put(self, work: Callable[[], object]) -> None:
        """`work` will be done after all that was put before."""
        self._queue.put(work)

    def close(self, seconds: float) -> bool:
        """Waits for all that was put, for so long at the most; whether all of it was done."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._patience.hurried.set()
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                self._patience.call(work, lambda: self.waiting)
            except Exception as error:
                if self._patience.hurried.is_set():
                    return
                self._say(f"tracking: a record was refused: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    # Cut last: of a URI that is cut short nobody could tell the password.
    return (redact(str(error)).splitlines() or [repr(error)])[0][:300]
