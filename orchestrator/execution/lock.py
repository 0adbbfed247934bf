"""The lock of a sweep: one launch at a time, named in the storage, taken over when its holder is dead.

NAME/launch.json names the holder, which renews it every few seconds. On the holder's own machine a later
launch checks whether that process is alive; on another machine it waits for a renewal.
"""

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from orchestrator.common.errors import UserError
from orchestrator.common.signals import interrupt_now
from orchestrator.common.storage import Store

logger = logging.getLogger(__name__)
RENEW_SECONDS = 5.0
STALE_SECONDS = 30.0
SETTLE_SECONDS = 0.5
"""Two launches may write at nearly the same time: the content a moment later decides which one holds the
lock."""
Holder = Mapping[str, Any]
"""Content of the lock's file."""


class SweepLock:
    """The lock of one sweep, held during a with-block."""

    def __init__(self, store: Store, sweep: str) -> None:
        """Describe this launch as the holder; entering the with-block takes the lock."""
        self._store, self._sweep, self._file = store, sweep, f"{sweep}/launch.json"
        self._mine: Holder = {
            "holder": uuid.uuid4().hex,
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._ended = threading.Event()

    def __enter__(self) -> "SweepLock":
        """Take the lock.

        Raises:
            UserError: another launch of the sweep holds it.
        """
        while not self._taken():
            theirs = self._read()
            if theirs is not None and self._alive(theirs):
                raise UserError(
                    f"sweep {self._sweep} in {self._store.root}: is running since {theirs['since']} by "
                    f"{theirs['user']}, process {theirs['pid']} on {theirs['host']}: wait for it, or end it"
                )
            # Of several launches that find a dead one's lock, each removes only the content it has read.
            if theirs == self._read():
                self._store.delete(self._file)
        threading.Thread(target=self._renew, name="sweep-lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock, unless another launch holds it now."""
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

    def _is_mine(self, theirs: Holder) -> bool:
        return bool(theirs["holder"] == self._mine["holder"])

    def _content(self) -> bytes:
        return json.dumps({**self._mine, "renewed": time.time()}, indent=1).encode()

    def _read(self) -> Holder | None:
        """Return the holder; None if there is none, or the file is incomplete."""
        try:
            found: Holder = self._store.read_json(self._file)
        except (OSError, ValueError):
            return None
        return found if found.keys() >= self._mine.keys() else None

    def _alive(self, theirs: Holder) -> bool:
        if theirs["host"] == self._mine["host"]:
            # The creation time distinguishes it from a later process of the same number.
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
                logger.error("the sweep was taken over by process %s on %s", theirs["pid"], theirs["host"])
                # Trainings are not asked to stop: they and their stop requests belong to the other launch
                # now.
                interrupt_now()
                return
            with suppress(OSError):
                self._store.write(self._file, self._content())
