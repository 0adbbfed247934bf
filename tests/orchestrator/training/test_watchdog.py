"""Only a step that was begun after a first one is given up after the patience that was asked for."""

import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator.common.storage import Store
from orchestrator.training import watchdog
from orchestrator.training.watchdog import Watchdog, collect_hang_reports


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def watch(store: Store, seconds: float, first: float, beat: bool) -> bool:
    """Whether a worker that does nothing for `seconds` is ended by a patience of 0.2 s."""
    with patch.object(watchdog, "FIRST_SECONDS", first), patch("os.kill") as kill:
        dog = Watchdog(store, "hangs", rank=1, timeout=0.2)
        if beat:
            dog.beat(7)
        time.sleep(seconds)
        dog.stop()
        # One that still watched would end these tests with the real `os.kill`.
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}
        return bool(kill.called)


def test_a_first_step_may_take_longer(store: Store) -> None:
    assert not watch(store, 0.6, first=60, beat=False)
    assert not collect_hang_reports(store, "hangs")


def test_a_later_one_may_not(store: Store) -> None:
    assert watch(store, 0.6, first=60, beat=True)
    (sentence,) = collect_hang_reports(store, "hangs")
    assert sentence.startswith("rank 1: nothing for 0.2 s after step 7; waited in")


def test_nor_may_a_first_one_for_ever(store: Store) -> None:
    assert watch(store, 1.0, first=0.3, beat=False)
