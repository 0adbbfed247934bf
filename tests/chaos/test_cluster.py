"""What happens on a cluster: the submitting client is killed, nodes are lost, and taken away with notice."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import (
    REPOSITORY,
    Sweep,
    assert_same_weights,
    find_process,
    recovery,
    verdict,
    wait_until,
)

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.slow]
PORT = 8465
DASHBOARD = f"http://127.0.0.1:{PORT}"
TOKEN = "0123456789abcdef" * 4
CLUSTER = {
    # Several nodes, unlike the Ray of `tests/conftest.py`.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    # A node that is gone is noticed within seconds.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
CPUS = 4
"""Of a node: it holds both workers, and what watches over them."""
INTERVAL = 10
SETTINGS = ("resources.cpus_per_worker=1.5", f"resources.checkpoint_every={INTERVAL}")
NOTICE_SECONDS = 8


class Nodes:
    """A cluster whose processes a sweep's faults reach; see `nodes`."""

    def __init__(self, sweep: Sweep) -> None:
        with (sweep.folder / "nodes.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nodes", str(PORT)],
                env=sweep.environ(), cwd=REPOSITORY, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._answer()

    def tell(self, *command: object) -> None:
        """Gives a command, and waits until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, command)) + "\n")
        self._process.stdin.flush()
        self._answer()

    def end(self) -> None:
        """All nodes end."""
        self._process.communicate("end\n", timeout=60)

    def _answer(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("done: "):
                return
        raise AssertionError("the cluster's process has ended")


@pytest.fixture
def cluster(prepared: Callable[..., Sweep]) -> Iterator[tuple[Nodes, Sweep]]:
    sweep = prepared()
    sweep.environment = {**CLUSTER, "CHAOS_PAUSE": "1"}
    nodes = Nodes(sweep)
    nodes.tell("add", CPUS)
    yield nodes, sweep
    nodes.end()


def submit(sweep: Sweep) -> "subprocess.Popen[bytes]":
    """`ray job submit`; its words go to client.log.

    Without --working-dir: nodes of one machine share the folder it is unpacked in, and lose it with
    the first of them that ends.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", DASHBOARD]
    command += ["--submission-id", "sweep", "--", *sweep.command(*SETTINGS)]
    with (sweep.folder / "client.log").open("w") as log:
        return subprocess.Popen(
            command, env=sweep.environ(), stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY
        )


def asked(path: str) -> Any:
    """What the dashboard answers."""
    request = urllib.request.Request(f"{DASHBOARD}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def a_worker() -> int:
    """The process id of one training worker."""
    found = find_process("ray::RayTrainWorker")
    assert found is not None
    return int(found.pid)


def checkpoints_on_notice(sweep: Sweep) -> list[Path]:
    folders = sweep.storage.glob("artifacts/*/*/checkpoints/step-????????")
    return [folder for folder in folders if int(folder.name[-8:]) % INTERVAL]


def test_the_client_is_killed_and_nodes_go_with_and_without_notice(
    unbroken: Sweep, cluster: tuple[Nodes, Sweep], note: Callable[..., None]
) -> None:
    nodes, sweep = cluster
    client = submit(sweep)
    sweep.wait_for_step(2)
    client.kill()
    client.wait()

    sweep.wait_for_step(INTERVAL + 2)
    nodes.tell("lose", a_worker())
    lost = time.time()
    nodes.tell("add", CPUS)
    nodes.tell("add", CPUS)
    sweep.wait_for_step(INTERVAL + 3, since=lost)
    seconds, again = recovery(sweep, lost)
    note("node lost", seconds, again)
    assert again < INTERVAL, "more than one checkpoint interval"

    nodes.tell("drain", a_worker(), NOTICE_SECONDS)
    wait_until(lambda: checkpoints_on_notice(sweep), NOTICE_SECONDS)
    time.sleep(NOTICE_SECONDS / 2)
    nodes.tell("take")
    gone = time.time()

    wait_until(lambda: asked("/api/jobs/sweep")["status"] in ("SUCCEEDED", "FAILED", "STOPPED"), 240)
    assert asked("/api/jobs/sweep")["status"] == "SUCCEEDED", asked("/api/jobs/sweep/logs")["logs"]
    verdict(sweep, trials=1)
    assert_same_weights(sweep, unbroken)
    groups = asked("/api/v0/placement_groups")["data"]["result"]["result"]
    assert {group["state"] for group in groups} == {"REMOVED"}
    seconds, again = recovery(sweep, gone)
    note("node taken away after notice", seconds, again)
