"""Ctrl-C and SIGTERM (`ray job stop`, a machine that goes away): the first asks, the second interrupts."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_interrupted = threading.Event()


def interrupt_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def interrupt_now() -> None:
    """Raise KeyboardInterrupt in the main thread, as a second Ctrl-C does; called from other threads."""
    _interrupted.set()
    _thread.interrupt_main()


@contextmanager
def defer_first_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first signal sets; a second signal raises KeyboardInterrupt."""
    asked = threading.Event()

    def answer(number: int, frame: FrameType | None) -> None:
        if asked.is_set() or _interrupted.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, answer) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
