"""Ctrl-C, SIGTERM (`ray job stop`, a machine that goes away) and SIGHUP (a closed terminal or connection).

The first asks, the second interrupts. A signal that the process was started to ignore stays ignored, as
SIGHUP under nohup.
"""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_interrupted = threading.Event()


def interrupt_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does."""
    for number in _heeded():
        signal.signal(number, signal.default_int_handler)


def interrupt_now() -> None:
    """Raise KeyboardInterrupt in the main thread, as a second Ctrl-C does; called from other threads.

    A command that a script starts in the background ignores Ctrl-C, so another signal may stand for it.
    """
    _interrupted.set()
    handled = [number for number in SIGNALS if callable(signal.getsignal(number))]
    _thread.interrupt_main(handled[0] if handled else signal.SIGINT)


@contextmanager
def defer_first_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first signal sets; a second signal raises KeyboardInterrupt."""
    asked = threading.Event()

    def answer(number: int, frame: FrameType | None) -> None:
        if asked.is_set() or _interrupted.is_set():
            raise KeyboardInterrupt
        asked.set()

    with handlers_kept():
        for number in _heeded():
            signal.signal(number, answer)
        yield asked


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore the signals while what they ask for is being done, so that nothing is left running."""
    with handlers_kept():
        for number in _heeded():
            signal.signal(number, signal.SIG_IGN)
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of the signals back at the end; Ray sets its own, which end the process at once."""
    before = {number: signal.getsignal(number) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """Return the signals that are not ignored; none outside of the main thread, which Python asks for."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
