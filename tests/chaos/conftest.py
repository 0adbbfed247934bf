"""The unbroken sweep that broken ones are compared with, and one Ray at a time."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.chaos import Sweep, assert_no_process_left, verdict


@pytest.fixture(scope="session", autouse=True)
def another_ray_was_here() -> Iterator[None]:
    """The address of a Ray that is gone, as `ray start` leaves it on a machine: nobody may ask it."""
    file = Path("/tmp/ray/ray_current_cluster")
    if file.exists():
        yield
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text("192.0.2.2:6379")
    yield
    file.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Nothing happens to it."""
    sweep = Sweep(tmp_path_factory.mktemp("unbroken"))
    sweep.run("resources.keep_checkpoints=99")
    verdict(sweep, trials=1)
    return sweep


@pytest.fixture
def prepared(unbroken: Sweep, tmp_path: Path) -> Callable[..., Sweep]:
    """Makes a sweep whose prompts are encoded and whose teachers have drawn, as the unbroken one's."""

    def make(**settings: object) -> Sweep:
        sweep = Sweep(tmp_path / "sweep", **settings)  # type: ignore[arg-type]
        for name in ("prompts", "references"):
            shutil.copytree(unbroken.storage / name, sweep.storage / name)
        return sweep

    return make


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str, float, int], None]:
    """Keeps what a fault cost: on the screen (-s), in a JUnit file, and in the file $CHAOS_NOTES."""

    def keep(fault: str, seconds: float, lost: int) -> None:
        line = f"{fault}: {seconds:.1f} s to the first new step, {lost} steps done again"
        record_property(fault, line)
        print(line)
        if "CHAOS_NOTES" in os.environ:
            with Path(os.environ["CHAOS_NOTES"]).open("a") as notes:
                notes.write(json.dumps({"fault": fault, "seconds": round(seconds, 1), "lost": lost}) + "\n")

    return keep


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process of Ray, before the next test has its own."""
    yield
    assert_no_process_left()
