"""A Ray head of this machine with the environment of the manifest's, and jobs that are submitted to it."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.infra.manifests import REPOSITORY, rendered
from tests.infra.tracking.stack import Stack, container, free_port, wait_for

CPUS = 2
OURS = ("MLFLOW_", "AWS_", "RAY_")
"""Of the head's environment: the rest is about its disks."""
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


class Head:
    """Ray with token authentication; a job has the head's environment, as in a cluster."""

    def __init__(self, stack: Stack) -> None:
        spec = container(rendered("single/cluster"), "ray-head")
        given = {key: value for key, value in stack.environment(spec).items() if key.startswith(OURS)}
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # As in the image, `python` is the one that all is installed for.
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self._folder, self._dashboard = stack.folder, free_port()
        # Ray puts sockets below it, whose paths may be of 107 letters: pytest's own are too long.
        self._sessions = tempfile.TemporaryDirectory(prefix="ray-")
        words = ["--num-cpus", str(CPUS), "--port", str(free_port()), "--node-ip-address", "127.0.0.1"]
        words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(self._dashboard)]
        words += ["--temp-dir", self._sessions.name, "--object-store-memory", str(2**28)]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [*RAY, "start", "--head", "--block", "--disable-usage-stats", *words],
                env={**os.environ, **self._token, **given, **path},
                stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        wait_for(f"{self._address}/api/version", self._process, self.log, refused=True)

    @property
    def log(self) -> Path:
        return self._folder / "head.log"

    def submit(self, *command: str) -> "Job":
        """`ray job submit` from this repository, as infra/README.md has it."""
        words = ["job", "submit", "--address", self._address, "--working-dir", str(REPOSITORY)]
        return Job([*RAY, *words, "--", *command], {**os.environ, **self._token}, self._folder / "job.log")

    def end(self) -> None:
        """At once: told to end, Ray takes half a minute."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._sessions.cleanup()

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self._dashboard}"


class Job:
    """The client of a job, which follows its words and ends with it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, cwd=log.parent
            )

    @property
    def output(self) -> str:
        return self._log.read_text()
