"""Checks of Python and of the installed libraries against the versions that this project was tested with."""

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, warn

PROJECT = "distillation-orchestrator"
SHOWN = 3
"""Conflicts that are named; further ones are counted."""


def check_python(subject: Subject) -> Iterator[Finding]:
    """Compare Python with the versions that the project supports."""
    version = platform.python_version()
    wanted = importlib.metadata.metadata(PROJECT)["Requires-Python"]
    if Requirement(f"python{wanted}").specifier.contains(version, prereleases=True):
        yield ok(f"{version} on {platform.system()} {platform.machine()}")
    else:
        yield fail(f"{version} is not supported: make an environment with Python {wanted}")


def check_libraries(subject: Subject) -> Iterator[Finding]:
    """Compare each installed package that the project needs, directly or not, with what its users ask for."""
    conflicts, packages = _conflicts()
    if conflicts:
        more = f" and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        yield fail(
            f"{'; '.join(conflicts[:SHOWN])}{more}: install into a new environment with `pip install .`, "
            f"and add nothing to it by hand"
        )
    else:
        yield ok(f"{packages} packages fit each other and the versions that were tested")


def check_installed(subject: Subject) -> Iterator[Finding]:
    """Check Python and libraries if the project is installed; a clone alone says nothing of versions."""
    try:
        importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        yield warn(
            "this project is not installed here, so versions are unknown: run `pip install .` in its clone"
        )
        return
    yield from check_python(subject)
    yield from check_libraries(subject)


def _conflicts() -> tuple[list[str], int]:
    """Return each unmet requirement in a line, and the number of packages that were looked at."""
    conflicts: list[str] = []
    waiting: list[tuple[str, frozenset[str]]] = [(PROJECT, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for need in _needs(name, extras):
            if conflict := _conflict(need, name):
                conflicts.append(conflict)
            else:
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return conflicts, len({name for name, _ in seen})


def _needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield the requirements of an installed package that hold on this machine."""
    for line in importlib.metadata.requires(name) or []:
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield need


def _conflict(need: Requirement, user: str) -> str | None:
    try:
        version = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{need.name} is missing, which {user} needs"
    if need.specifier.contains(version, prereleases=True):
        return None
    return f"{need.name} is {version}, and {user} needs {need.specifier}"
