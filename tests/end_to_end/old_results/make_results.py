"""Runs the sweep in the working folder until its second trial is held before step 9; then SIGTERM.

python make_results.py INJECT CHAOS     (tests/inject of the old commit; a folder for steps and log)
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

inject, chaos = map(Path, sys.argv[1:])
chaos.mkdir(parents=True)
(chaos / "faults.json").write_text(json.dumps([{"step": 9, "rank": 0, "do": "hold", "trial": "-s1-"}]))
log = chaos / "launch.log"
environment = os.environ | {
    "CHAOS": str(chaos),
    "PYTHONPATH": f"{inject}{os.pathsep}{os.environ['PYTHONPATH']}",
    "PYTHONUNBUFFERED": "1",
    # Else the rest of the steps is done before the training looks for the notice to end.
    "CHAOS_PAUSE": "0.5",
}


def wait_for(done: Callable[[], bool], seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert launch.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


with log.open("w") as output:
    launch = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.run", "sweep.yaml"],
        stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
    )  # fmt: skip
wait_for(lambda: "registered as" in log.read_text())
wait_for((chaos / "fired-0").exists)
launch.send_signal(signal.SIGTERM)
wait_for(lambda: "1 trainings write a checkpoint" in log.read_text())
(chaos / "released-9").touch()
print(f"exit status {launch.wait(120)}")
print(log.read_text())
