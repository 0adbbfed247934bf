"""A worker that hangs ends itself, and says which rank it was and what it waited for.

In a group all others then wait as well, in a collective; so each leaves a note, and whoever is
started next tells them apart: the culprit is the one that waits for something else.
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
"""Times its patience that one waits who only waits for others, so that the culprit speaks first."""
FIRST_SECONDS = 120.0
"""At least so long for a start's first step, before which readers start and code is loaded."""


@dataclass(frozen=True)
class Hang:
    """What a worker was doing when it was given up."""

    rank: int
    step: int
    """The last that it had finished."""
    seconds: float
    place: str
    """Where it waited: function, file and line, innermost last."""
    collective: bool
    """Whether it waited for the other workers."""

    @property
    def sentence(self) -> str:
        waited = f"waited {'for the other workers, ' if self.collective else ''}in {self.place}"
        return f"rank {self.rank}: nothing for {self.seconds:g} s after step {self.step}; {waited}"


class Watchdog:
    """Watches the thread that makes it; `beat` tells that it is alive."""

    def __init__(self, store: Store, folder: str, rank: int, patience: float) -> None:
        """Ends the process when `beat` is not called for `patience` seconds, or `FIRST_SECONDS` at first."""
        self._store, self._folder, self._rank, self._patience = store, folder, rank, patience
        self._now = max(patience, FIRST_SECONDS)
        self._watched = threading.get_ident()
        self._step, self._last = 0, time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, step: int) -> None:
        """Work goes on; `step` steps are done."""
        self._step, self._last, self._now = step, time.monotonic(), self._patience

    def stop(self) -> None:
        """Nobody watches any more once this returns."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._patience / 10)):
            waited = time.monotonic() - self._last
            if waited <= self._now:
                continue
            hang = self._hang(sys._current_frames()[self._watched])
            if waited > GRACE * self._now or not hang.collective:
                self._store.write_json(f"{self._folder}/rank-{self._rank:04d}.json", asdict(hang))
                # Nothing milder ends a thread that hangs in native code. Ray Train starts the group again.
                os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self, frame: FrameType) -> Hang:
        calls = traceback.extract_stack(frame)
        place = " > ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in calls[-3:])
        collective = any(COLLECTIVE in call.filename for call in calls)
        return Hang(self._rank, self._step, self._now, place, collective)


def collect_hang_reports(store: Store, folder: str) -> list[str]:
    """Reads and removes the notes that workers left: a sentence each, the culprits' first.

    Those who only waited for others are left out if there is a culprit.
    """
    hangs = [Hang(**store.read_json(name)) for name in store.files(folder)]
    store.delete_folder(folder)
    culprits = [hang for hang in hangs if not hang.collective] or hangs
    return [hang.sentence for hang in sorted(culprits, key=lambda hang: hang.rank)]
