"""Ctrl-C and SIGTERM (`ray job stop`, a machine that is taken away): the first asks, the second insists."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_insisted = threading.Event()


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def interrupt_at_once() -> None:
    """Raises KeyboardInterrupt in the main thread, called from any other, as a second Ctrl-C does."""
    _insisted.set()
    _thread.interrupt_main()


@contextmanager
def defer_first_interrupt() -> Iterator[threading.Event]:
    """Within, the first signal only sets the event; a second one raises KeyboardInterrupt."""
    asked = threading.Event()

    def answer(number: int, frame: FrameType | None) -> None:
        if asked.is_set() or _insisted.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, answer) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
