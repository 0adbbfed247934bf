"""A cluster at zero, a copy of the repository to submit from, and a small sweep for both."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.infra.autoscaling.cluster import Cluster
from tests.infra.autoscaling.jobs import Jobs, copy_of_the_repository
from tests.support.chaos import INJECT, Launch, Sweep, assert_no_process_left, wait_until

SETTINGS = (
    "resources.workers=1",
    "resources.cpus_per_worker=0.8",
    # Logical: without a GPU in the machine a worker trains on its CPU.
    "resources.gpus_per_worker=1",
    "train.nasa_interval=null",
    "negative_prompts=null",
)
ZERO_SECONDS = 120
"""In which idle pods are gone, once the requests of whoever was killed have expired; see `machine`."""


class Stage:
    """A cluster, the jobs submitted to it, and what they leave in one storage."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.code = copy_of_the_repository(folder / "code")
        self.sweep = Sweep(folder / "sweep")
        shutil.copy(self.sweep.folder / "sweep.yaml", self.code / "sweeps/chaos.yaml")
        injected = {"CHAOS": str(self.sweep.folder), "CHAOS_PAUSE": "0.5", "PYTHONPATH": str(INJECT)}
        self.cluster = Cluster({**injected, "PYTHONUNBUFFERED": "1", **environment})
        self.jobs = Jobs(self.cluster, self.code)

    def submit(self, name: str, *overrides: str) -> Launch:
        """The sweep, by the words of infra/README.md."""
        command = [
            "python",
            "-m",
            "orchestrator.run",
            "sweeps/chaos.yaml",
            "--storage",
            str(self.sweep.storage),
        ]
        command += ["--tracking-uri", f"sqlite:///{self.sweep.storage}/mlflow.db"]
        command += [word for override in (*SETTINGS, *overrides) for word in ("--set", override)]
        return self.jobs.submit(name, command)

    def wait_for_zero(self) -> float:
        """Until no worker's pod is left; since when that is so."""
        wait_until(lambda: self.cluster.history[-1][1] == {}, ZERO_SECONDS)
        return self.cluster.history[-1][0]

    def most(self, *groups: str) -> int:
        """The most pods that these groups had at once, pending ones too."""
        states = [name for group in groups for name in (group, f"{group} pending")]
        return max(sum(counts.get(state, 0) for state in states) for _, counts in self.cluster.history)

    def since(self, when: float, group: str) -> float:
        """When a pod of the group first ran, after `when`."""
        return next(at for at, counts in self.cluster.history if at > when and counts.get(group))


@contextmanager
def staged(folder: Path, **environment: str) -> Iterator[Stage]:
    """`environment`: of every process, over what the manifest and `machine` say."""
    made = Stage(folder, environment)
    try:
        yield made
    finally:
        made.cluster.end()
    assert_no_process_left()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Keeps what was measured: on the screen (-s), in a JUnit file, and in the file $AUTOSCALING_NOTES."""

    def keep(**measured: float) -> None:
        line = json.dumps({name: round(value, 1) for name, value in measured.items()})
        record_property("measured", line)
        print(line)
        if "AUTOSCALING_NOTES" in os.environ:
            with Path(os.environ["AUTOSCALING_NOTES"]).open("a") as notes:
                notes.write(line + "\n")

    return keep
