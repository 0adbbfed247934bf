"""A watchdog in each worker: a worker that hangs writes a report and ends its process.

In a group the other workers then wait in a collective, so each of them writes a report as well, and the
driver tells them apart: the culprit is the worker that waits for something else.
"""

import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from orchestrator.common.storage import Store

COLLECTIVE = "torch/distributed"
GRACE = 1.5
"""Workers that are blocked in a collective wait this much longer, so that the stuck worker reports first."""
FIRST_SECONDS = 120.0
"""Least timeout of the first step after a start, in which readers start and code is loaded."""


@dataclass(frozen=True)
class Hang:
    """A worker's report of its own hang."""

    rank: int
    step: int
    """The last step that it finished."""
    seconds: float
    place: str
    """Function, file and line at which it waited, innermost last."""
    collective: bool
    """True if it waited for the other workers."""

    @property
    def sentence(self) -> str:
        """The report as a line for the log."""
        waited = f"waited {'for the other workers, ' if self.collective else ''}in {self.place}"
        return f"rank {self.rank}: nothing for {self.seconds:g} s after step {self.step}; {waited}"


class Watchdog:
    """Watches the thread that creates it, which calls `beat` after every step."""

    def __init__(self, store: Store, folder: str, rank: int, timeout: float) -> None:
        """End the process if no `beat` comes for `timeout` seconds, at first for `FIRST_SECONDS`.

        Args:
            store: the storage.
            folder: folder of the reports.
            rank: this worker's rank.
            timeout: seconds without a finished step.
        """
        self._store, self._folder, self._rank, self._timeout = store, folder, rank, timeout
        self._current_timeout = max(timeout, FIRST_SECONDS)
        self._watched = threading.get_ident()
        self._step, self._last = 0, time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, step: int) -> None:
        """Record that `step` steps are done."""
        self._step, self._last, self._current_timeout = step, time.monotonic(), self._timeout

    def stop(self) -> None:
        """Stop watching, and wait until the watching thread has ended."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout / 10)):
            waited = time.monotonic() - self._last
            if waited <= self._current_timeout:
                continue
            hang = self._hang(sys._current_frames()[self._watched])
            if waited > GRACE * self._current_timeout or not hang.collective:
                self._store.write_json(f"{self._folder}/rank-{self._rank:04d}.json", asdict(hang))
                # A thread that hangs in native code ends by no milder means. Ray Train restarts the group.
                os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self, frame: FrameType) -> Hang:
        calls = traceback.extract_stack(frame)
        place = " > ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in calls[-3:])
        collective = any(COLLECTIVE in call.filename for call in calls)
        return Hang(self._rank, self._step, self._current_timeout, place, collective)


def collect_hang_reports(store: Store, folder: str) -> list[str]:
    """Read and remove the reports that workers wrote; return one line each, sorted by rank.

    Workers that only waited for others are left out if a culprit reported.
    """
    hangs = [Hang(**store.read_json(name)) for name in store.files(folder)]
    store.delete_folder(folder)
    culprits = [hang for hang in hangs if not hang.collective] or hangs
    return [hang.sentence for hang in sorted(culprits, key=lambda hang: hang.rank)]
