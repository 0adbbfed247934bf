"""The parts of a diagnosis: a `Check` looks at a `Subject` and reports `Finding`s.

    for finding in examine(check, subject):
        print(finding.level, check.name, finding.text)

No check changes anything, raises, or takes longer than `LIMIT_S`: `examine` sees to the last two.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from orchestrator.common.errors import UserError

if TYPE_CHECKING:
    from orchestrator.planning.plan import Plan

LIMIT_S = 60.0
"""Seconds after which a check that waits for an answer is given up."""
CHARACTERS = 400
"""Length to which a library's message is cut."""


class Level(IntEnum):
    """Severity of a finding."""

    OK = 0
    WARN = 1
    """The sweep runs, but slowly, or only if something that could not be checked is right."""
    FAIL = 2
    """The sweep would end with an error."""


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis."""

    level: Level
    text: str
    """The thing and its state; unless the level is OK also the remedy."""


@dataclass(frozen=True)
class Subject:
    """The places to check, and the sweep that is to run there."""

    root: str
    """Folder or bucket of all results."""
    tracking: str | None = None
    """URI of MLflow as the command or the sweep gives it."""
    plan: "Plan | None" = None
    """None: only the machine and the places are checked."""

    @property
    def on_cluster(self) -> bool:
        """True if the sweep runs on the Ray cluster that RAY_ADDRESS names, on other machines."""
        return bool(os.environ.get("RAY_ADDRESS"))

    @property
    def gpus(self) -> int:
        """GPUs that a trial of the sweep needs on this machine."""
        return 0 if self.plan is None or self.on_cluster else math.ceil(self.plan.gpus_per_trial)


@dataclass(frozen=True)
class Check:
    """A named examination of one thing."""

    name: str
    function: str
    """MODULE:NAME of a function that yields the findings about a `Subject`. It is imported when it runs, so
    that a library that is missing or broken fails the checks that need it, and no others."""

    def run(self, subject: Subject) -> Iterator[Finding]:
        """Import the function, and yield its findings."""
        module, _, name = self.function.partition(":")
        function: Callable[[Subject], Iterator[Finding]] = getattr(import_module(module), name)
        yield from function(subject)


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def warn(text: str) -> Finding:
    return Finding(Level.WARN, text)


def fail(text: str) -> Finding:
    return Finding(Level.FAIL, text)


def one_line(error: BaseException) -> str:
    """Return the message of `error` in one line, or the name of its class."""
    return " ".join(str(error).split())[:CHARACTERS] or type(error).__name__


def examine(check: Check, subject: Subject, limit_s: float = LIMIT_S) -> list[Finding]:
    """Run a check; whatever it raises, and an answer that does not come, become findings."""
    found: list[Finding] = []
    thread = Thread(target=_run, args=(check, subject, found), daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return [*found, fail(f"no answer in {limit_s:g} s: check the address, the network and the login")]
    return found


def _run(check: Check, subject: Subject, found: list[Finding]) -> None:
    try:
        found.extend(check.run(subject))
    except UserError as error:
        found.append(fail(str(error)))
    except ValueError as error:
        found.append(fail(one_line(error)))
    except Exception as error:
        found.append(fail(f"could not be checked: {type(error).__name__}: {one_line(error)}"))
