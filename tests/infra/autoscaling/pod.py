"""One pod: a real `ray start --block` in a session of its own, as the kubelet would run it."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.infra.manifests import Manifest

GRACE_SECONDS = 25


class Pod:
    """Pending until `start`; then Running, until its processes are gone."""

    def __init__(self, name: str, group: str, folder: Path) -> None:
        self.name, self.group, self.folder = name, group, folder
        self.created = time.monotonic()
        self._deleted: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True)
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def session(self) -> int | None:
        """Of all its processes: Ray's change their titles and parents, not this."""
        return None if self._process is None else self._process.pid

    @property
    def pending(self) -> bool:
        return self._process is None

    @property
    def deleting(self) -> bool:
        return self._deleted is not None

    @property
    def ended(self) -> bool:
        """The process of its container is over: by itself, killed, or since the pod was deleted."""
        return self.deleting if self._process is None else self._process.poll() is not None

    def delete(self) -> None:
        """SIGTERM now; see `expire`."""
        self._deleted = time.monotonic()
        if self._process is not None:
            self._process.terminate()

    def expire(self) -> None:
        """SIGKILL to what is left when its container is over, or has been deleted for its grace period."""
        late = self._deleted is not None and time.monotonic() - self._deleted > GRACE_SECONDS
        if late or self.ended:
            self.kill()

    def kill(self) -> None:
        """All of it at once, as when a spot machine is taken away."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _in_session(process, self.session)]

    def manifest(self, cluster: str, version: int) -> Manifest:
        """What the API server says of it."""
        kind = "head" if self.group == HEAD else "worker"
        labels = {"ray.io/cluster": cluster, "ray.io/node-type": kind, "ray.io/group": self.group}
        metadata: Manifest = {"name": self.name, "labels": labels, "resourceVersion": str(version)}
        if self.deleting:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        status = {"phase": "Pending"} if self.pending else RUNNING
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": SPEC, "status": status}


HEAD = "headgroup"
"""KubeRay's name for the group of the head."""
RUNNING: Manifest = {
    "phase": "Running",
    "podIP": "127.0.0.1",
    "containerStatuses": [{"name": "ray", "ready": True, "state": {"running": {}}}],
}
SPEC: Manifest = {"containers": [{"name": "ray", "resources": {}}]}


def _in_session(process: psutil.Process, session: int | None) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
