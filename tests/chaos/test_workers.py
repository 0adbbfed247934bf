"""What happens to training workers, killed alone or together, and hanging; and to MLflow meanwhile."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.server import Server
from tests.support.chaos import Sweep, assert_same_weights, recovery, verdict, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.cluster]
HANG_SECONDS = 8
PLANTED = "planted-S3cr+t"
FAULTS = {
    "one worker killed": {"step": 6, "rank": 1, "do": "kill"},
    "all workers killed": {"step": 11, "do": "kill"},
    "one worker hangs": {"step": 15, "rank": 1, "do": "hang"},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, 5931)
    server.start()
    yield server
    server.stop()


def test_workers_die_and_hang_and_the_tracking_server_goes_away(
    unbroken: Sweep, prepared: Callable[..., Sweep], server: Server, note: Callable[..., None]
) -> None:
    sweep = prepared(faults=list(FAULTS.values()))
    # A user and a password that the server does not ask for, to be looked for afterwards.
    uri = server.uri.replace("//", f"//me:{PLANTED}@")
    sweep.environment = {"MLFLOW_TRACKING_URI": uri, "CHAOS_PAUSE": "0.2"}
    launch = sweep.launch(f"resources.hang_timeout_s={HANG_SECONDS}")
    sweep.wait_for_step(8, launch)
    server.stop()
    stopped = time.time()
    sweep.wait_for_step(18, launch)
    wait_until(lambda: "tracking: does not answer" in launch.output, 120)
    server.start()
    outage = time.time() - stopped
    assert launch.end() == 0, launch.output
    assert "tracking: answers again" in launch.output and "Traceback" not in launch.output
    note(f"tracking server gone for {outage:.0f} s", 0, 0)
    sweep.tracking = server.uri
    verdict(sweep, trials=1)
    assert_same_weights(sweep, unbroken)
    for number, fault in enumerate(FAULTS):
        struck = max(at for name, at in sweep.fired().items() if name.startswith(f"fired-{number}"))
        seconds, again = recovery(sweep, struck)
        note(fault, seconds, again)
        assert again < 4, "more than one checkpoint interval"
    assert re.search(r"rank 1: nothing for 8 s after step 14; waited in .*_do \(sitecustomize", launch.output)
    assert len(re.findall(r"resumes after step (\d+)", launch.output)) == 3
    assert_planted_nowhere(sweep, launch.output)


def assert_planted_nowhere(sweep: Sweep, output: str) -> None:
    """The password is in no file of the storage, of MLflow or of Ray's logs, nor on the screen."""
    assert PLANTED not in output
    folders = [sweep.storage, sweep.folder.parent, Path("/tmp/ray/session_latest/logs").resolve()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if PLANTED.encode() in path.read_bytes()]


def test_the_tracking_server_is_down_at_the_start(tmp_path: Path) -> None:
    """A line, before anything is trained."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.tracking = "http://127.0.0.1:5932"
    launch = sweep.launch()
    assert launch.end(180) == 2, launch.output
    errors = [line for line in launch.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "tracking http://127.0.0.1:5932: MLflow does not answer" in errors[0]
    assert not sweep.steps() and "Traceback" not in launch.output
