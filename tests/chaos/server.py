"""A real tracking server, to be stopped and started."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.support.chaos import wait_until


class Server:
    """`mlflow server`, with a database and an artifact store of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
        self._command += ["--artifacts-destination", str(folder / "server-artifacts")]
        self._log = (folder / "server.log").open("w")

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        # Its helpers for evaluation jobs are eight more processes.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, env=environment
        )
        wait_until(self._up, 120)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
