"""`ray job submit`, `stop` and what the dashboard says of jobs, from a copy of the repository."""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.infra.autoscaling.cluster import RAY, TOKEN, Cluster
from tests.infra.manifests import REPOSITORY
from tests.support.chaos import Launch, wait_until

OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """Jobs of one cluster, submitted from the folder `code`."""

    def __init__(self, cluster: Cluster, code: Path) -> None:
        self._cluster, self._code = cluster, code
        self._url = f"http://{cluster.dashboard}"
        self._environment = {**os.environ, **cluster.client_environment, "RAY_ADDRESS": self._url}
        self._environment.pop("PYTHONPATH", None)
        wait_until(self._up, 60)

    def submit(self, name: str, command: list[str]) -> Launch:
        """`ray job submit --working-dir .`, which follows the job's log to its end."""
        options = ["--submission-id", name, "--working-dir", ".", "--log-color", "false", "--"]
        log = self._code.with_name(f"{name}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                [*RAY, "job", "submit", *options, *command],
                cwd=self._code, env=self._environment, stdout=output, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        return Launch(process, log)

    def stop(self, name: str) -> None:
        command = [*RAY, "job", "stop", name]
        subprocess.run(command, check=True, env=self._environment, capture_output=True, timeout=60)

    def about(self, name: str) -> dict[str, Any]:
        """Status, message, exit code of its command."""
        found: dict[str, Any] = self._asked(f"/api/jobs/{name}")
        return found

    def log(self, name: str) -> str:
        return str(self._asked(f"/api/jobs/{name}/logs")["logs"])

    def _asked(self, path: str) -> Any:
        request = urllib.request.Request(self._url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def _up(self) -> bool:
        """It answers, and knows of a head that can take jobs."""
        try:
            return bool(self._asked("/api/version"))
        except urllib.error.HTTPError as error:
            assert error.code >= 500, error
            return False
        except OSError:
            return False


def copy_of_the_repository(folder: Path) -> Path:
    """What git keeps of it, as it is in this folder now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder
