"""One launch of a sweep at a time: what becomes of one whose sweep another launch has taken over.

`tests/chaos/test_driver.py` has two launches at once, and one after a launch that died.
"""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.common import signals
from orchestrator.common.signals import defer_first_interrupt
from orchestrator.common.storage import Store
from orchestrator.execution import lock
from orchestrator.execution.lock import SweepLock

FILE = "tiny/launch.json"


def take_over(store: Store) -> dict[str, Any]:
    theirs = {**store.read_json(FILE), "holder": "another", "host": "elsewhere", "pid": 1}
    store.write_json(FILE, theirs)
    return theirs


def test_a_launch_leaves_its_successors_lock(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with SweepLock(store, "tiny"):
        theirs = take_over(store)
    assert store.read_json(FILE) == theirs
    store.delete(FILE)
    with SweepLock(store, "tiny"):
        assert store.exists(FILE)
    assert not store.exists(FILE)


def test_a_launch_that_was_taken_over_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first signal that a search gets would ask its trainings to end, which are the other's now."""
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(signals, "_interrupted", threading.Event())
    store = Store(str(tmp_path))
    with SweepLock(store, "tiny"), defer_first_interrupt() as asked, pytest.raises(KeyboardInterrupt):
        for _ in range(50):  # a renewal may be under way
            take_over(store)
            time.sleep(0.1)
    assert not asked.is_set() and store.read_json(FILE)["holder"] == "another"
