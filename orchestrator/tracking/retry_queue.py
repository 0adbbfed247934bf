"""RetryPolicy with MLflow: what cannot be recorded now is recorded when it answers again.

Records wait in a queue, in order, so that an outage stops no training. What is still waiting when
the launch ends can be made again from the storage, and is, by the same command.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

from orchestrator.common.redaction import redact

logger = logging.getLogger(__name__)
PAUSE_SECONDS = 2.0
"""Seconds between two attempts."""
LOG_SECONDS = 30.0
"""Seconds between two log lines about an outage."""
ATTEMPTS = 5
"""Attempts for a record that fails while MLflow answers other requests; then it is dropped with a log
line."""
OUTAGE = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
"""Error codes of MLflow for an unavailable server or database."""
T = TypeVar("T")


def is_outage(error: Exception) -> bool:
    """Return true if a retry may help; a full disk below the embedded MLflow is an outage too."""
    return isinstance(error, OSError) or getattr(error, "error_code", None) in OUTAGE


class RetryPolicy:
    """Repeats requests while MLflow does not answer, and logs the outage."""

    def __init__(self, answers: Callable[[], bool]) -> None:
        """Use `answers` to find out whether MLflow is up."""
        self._answers = answers
        self._logged = -LOG_SECONDS
        self.out = False
        """True if the last attempt failed."""
        self.cancelled = threading.Event()
        """Set to end all retries."""

    def call(self, work: Callable[[], T], waiting: Callable[[], int] = lambda: 1) -> T:
        """Return the result of `work`, repeated during outages.

        Raises:
            MlflowException, OSError: a retry does not help, or retries are cancelled.
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
                if self.cancelled.wait(PAUSE_SECONDS):
                    raise
            else:
                if self.out:
                    self.out, self._logged = False, -LOG_SECONDS
                    logger.info("tracking: answers again")
                return done

    def _report_outage(self, error: Exception, waiting: int) -> None:
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            logger.warning(
                "tracking: does not answer, %d records wait, nothing is lost: %s", waiting, _first_line(error)
            )


class RetryQueue:
    """Sends records in their order, on a thread of its own, with retries."""

    def __init__(self, name: str, policy: RetryPolicy) -> None:
        """Start the thread `name`."""
        self._policy = policy
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Approximate number of records that are not sent."""
        return self._queue.qsize() + 1

    def put(self, work: Callable[[], object]) -> None:
        """Do `work` after all earlier work."""
        self._queue.put(work)

    def close(self, seconds: float) -> bool:
        """Wait for all work, for at most `seconds`; return true if all of it was done."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._policy.cancelled.set()
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                self._policy.call(work, lambda: self.waiting)
            except Exception as error:
                if self._policy.cancelled.is_set():
                    return
                logger.warning("tracking: a record was refused: %s", _first_line(error))


def _first_line(error: Exception) -> str:
    # Shorten after redaction: a shortened URI could hide where its password ends.
    return (redact(str(error)).splitlines() or [repr(error)])[0][:300]
