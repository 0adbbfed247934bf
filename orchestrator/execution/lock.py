"""Who runs a sweep: one launch at a time, named in the storage, taken over when it is dead.

NAME/launch.json names its holder, who renews it every few seconds. On the holder's own machine a
later launch looks whether that process lives; from elsewhere it waits to see whether it is renewed.
"""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from orchestrator.common.errors import UserError
from orchestrator.common.signals import interrupt_at_once
from orchestrator.common.storage import Store

RENEW_SECONDS = 5.0
STALE_SECONDS = 30.0
SETTLE_SECONDS = 0.5
"""Two may write at nearly the same time: the one that is there a moment later holds it."""


class SweepLock:
    """Held for the time of a launch, in a with-block."""

    def __init__(self, store: Store, sweep: str) -> None:
        self._store, self._sweep, self._file = store, sweep, f"{sweep}/launch.json"
        self._mine = {
            "holder": uuid.uuid4().hex,
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._ended = threading.Event()

    def __enter__(self) -> "SweepLock":
        """Takes it.

        Raises:
            UserError: another launch of the sweep holds it, who and since when.
        """
        while not self._taken():
            theirs = self._read()
            if theirs is not None and self._alive(theirs):
                raise UserError(
                    f"sweep {self._sweep} in {self._store.root}: is being run by {theirs['user']}, process "
                    f"{theirs['pid']} on {theirs['host']}, since {theirs['since']}: wait for it, or end it"
                )
            # Of several that find a dead one's, each removes only what it has seen.
            if theirs == self._read():
                self._store.delete(self._file)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        theirs = self._read()
        if theirs is None or self._is_mine(theirs):
            self._store.delete(self._file)

    def _taken(self) -> bool:
        if not self._store.create(self._file, self._content()):
            return False
        time.sleep(SETTLE_SECONDS)
        theirs = self._read()
        return theirs is not None and self._is_mine(theirs)

    def _is_mine(self, theirs: dict[str, Any]) -> bool:
        return bool(theirs["holder"] == self._mine["holder"])

    def _content(self) -> bytes:
        return json.dumps({**self._mine, "renewed": time.time()}, indent=1).encode()

    def _read(self) -> dict[str, Any] | None:
        """Who holds it; None if nobody does, or the file is not whole."""
        try:
            found: dict[str, Any] = self._store.read_json(self._file)
        except (OSError, ValueError):
            return None
        return found if found.keys() >= self._mine.keys() else None

    def _alive(self, theirs: dict[str, Any]) -> bool:
        if theirs["host"] == self._mine["host"]:
            # The time tells it from a later process of the same number.
            with suppress(psutil.NoSuchProcess):
                return bool(psutil.Process(theirs["pid"]).create_time() == theirs["started"])
            return False
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(RENEW_SECONDS / 5)
            now = self._read()
            if now is None:
                return False
            if now.get("renewed") != theirs.get("renewed"):
                return True
        return False

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            theirs = self._read()
            if theirs is not None and not self._is_mine(theirs):
                print(f"the sweep was taken over by process {theirs['pid']} on {theirs['host']}", flush=True)
                # Nothing is handed back: its trainings are the other's now, and so are their notices.
                interrupt_at_once()
                return
            with suppress(OSError):
                self._store.write(self._file, self._content())
