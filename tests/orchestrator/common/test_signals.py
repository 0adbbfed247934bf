"""Signals that end a command, in processes of their own: with a line and status 130, unless ignored."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.common import signals
from orchestrator.common.signals import (
    defer_first_interrupt,
    handlers_kept,
    interrupt_now,
    signals_ignored,
)

REPOSITORY = Path(__file__).parents[3]
COMMAND = """
import argparse, os, signal, sys
from orchestrator.common.cli import exit_status
def work():
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    print("went on")
sys.exit(exit_status(argparse.Namespace(debug=False, verbose=False), work))
"""


def ended_by(name: str, *wrapper: str) -> tuple[int, str]:
    """Status and output of a command that gets a signal."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", COMMAND, name], cwd=REPOSITORY, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_command_ends_in_a_line(name: str) -> None:
    assert ended_by(name) == (130, "Interrupted.\n")


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    assert ended_by("SIGHUP", "nohup") == (0, "went on\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), defer_first_interrupt() as asked:
        os.kill(os.getpid(), number)
        assert asked.wait(5)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_library_that_sets_handlers_is_undone_and_an_ending_is_not_cut() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as ray.init does
    assert signal.getsignal(signal.SIGTERM) is before
    with signals_ignored():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_command_that_ignores_ctrl_c_is_interrupted_from_within() -> None:
    """Started in the background of a script, for example; a launch whose sweep was taken over must end."""
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with pytest.raises(KeyboardInterrupt):
                interrupt_now()
                time.sleep(5)
        finally:
            signals._interrupted.clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
