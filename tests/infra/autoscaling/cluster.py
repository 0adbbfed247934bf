"""KubeRay's operator in small: it keeps as many pods as the RayCluster says, and the head's.

A group can be made to have no room (`sold_out`: its pods stay Pending) or slow machines (`slow`).
"""

import copy
import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any

from tests.infra.autoscaling.api import Server, apply
from tests.infra.autoscaling.machine import ENVIRONMENT, FLAGS, ray_cluster
from tests.infra.autoscaling.pod import HEAD, Pod
from tests.infra.capacity import autoscaling_config
from tests.infra.manifests import Manifest

RAY = (sys.executable, "-m", "ray.scripts.scripts")
TOKEN = "0123456789abcdef" * 4
LOOK_SECONDS = 0.2
Counts = dict[str, int]
"""Pods by "GROUP" that run and "GROUP pending"."""


class Cluster:
    """The RayCluster, its pods, its autoscaler and the API server; all end with `end`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment`: of every process, over the manifest's own."""
        # Short: Ray's sockets are below it, and their paths may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pods-"))
        self.sold_out: set[str] = set()
        self.slow: dict[str, float] = {}
        """Seconds for which a group's pods are Pending."""
        self.history: list[tuple[float, Counts]] = []
        self.patches: list[tuple[float, list[Manifest]]] = []
        self._object = ray_cluster()
        self._kinds = autoscaling_config(self._object["spec"])["available_node_types"]
        self._name, self._namespace = (self._object["metadata"][key] for key in ("name", "namespace"))
        self._version, self._numbers, self._lock = 1, count(1), RLock()
        self._pods: list[Pod] = []
        self._given = environment
        self._gcs, self.dashboard = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        for group in self._groups():
            group.setdefault("scaleStrategy", {})
        self.api = Server(self, self._namespace, self._name, self.folder)
        self._ending = Event()
        self._start_head()
        self._operator = Thread(target=self._operate)
        self._operator.start()

    # What the API server serves.

    def ray_cluster(self) -> Manifest:
        with self._lock:
            return copy.deepcopy(self._object)

    def patch(self, operations: list[Manifest]) -> Manifest:
        with self._lock:
            changed = copy.deepcopy(self._object)
            for operation in operations:
                apply(changed, operation)
            self._object, self._version = changed, self._version + 1
            self.patches.append((time.time(), operations))
            return self.ray_cluster()

    def pods(self) -> Manifest:
        with self._lock:
            items = [pod.manifest(self._name, self._version) for pod in self._pods]
            return {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    # What tests do and see.

    def counts(self) -> Counts:
        """Worker pods of now."""
        with self._lock:
            names = [f"{pod.group} pending" if pod.pending else pod.group for pod in self._pods]
            return dict(Counter(name for name in names if name != HEAD))

    def pod_of(self, process: int) -> Pod:
        """The pod in which a process runs."""
        session = os.getsid(process)
        with self._lock:
            return next(pod for pod in self._pods if pod.session == session)

    def end(self) -> None:
        """All pods are killed; the cluster is not used again."""
        self._ending.set()
        self._operator.join()
        for pod in [*self._pods, self._autoscaler]:
            pod.kill()
        self.api.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    # The operator.

    def _operate(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            with self._lock:
                for group in self._groups():
                    self._reconcile(group)
                self._remove_ended()
                self._note()

    def _reconcile(self, group: Manifest) -> None:
        name = group["groupName"]
        mine = [pod for pod in self._pods if pod.group == name and not pod.deleting and not pod.ended]
        unwanted = group["scaleStrategy"].get("workersToDelete", [])
        for pod in mine:
            if pod.name in unwanted:
                pod.delete()
        missing = group["replicas"] - sum(not pod.deleting for pod in mine)
        self._pods += [self._pod(name) for _ in range(missing)]
        for pod in mine:
            late = time.monotonic() - pod.created >= self.slow.get(name, 0)
            if pod.pending and not pod.deleting and name not in self.sold_out and late:
                self._start(pod, group, ["--address", self._gcs])

    def _remove_ended(self) -> None:
        for pod in self._pods[1:]:
            pod.expire()
        self._pods[1:] = [pod for pod in self._pods[1:] if not pod.ended]

    def _note(self) -> None:
        counts = self.counts()
        if not self.history or self.history[-1][1] != counts:
            self.history.append((time.time(), counts))

    def _groups(self) -> list[Manifest]:
        groups: list[Manifest] = self._object["spec"]["workerGroupSpecs"]
        return groups

    # The kubelet.

    def _pod(self, group: str) -> Pod:
        number = next(self._numbers)
        return Pod(f"{self._name}-{group}-{number}", group, self.folder / str(number))

    def _start(self, pod: Pod, group: Manifest, where: list[str]) -> None:
        pod.start(self._command(pod, where), self._environment(pod, group))

    def _command(self, pod: Pod, where: list[str]) -> list[str]:
        """As KubeRay writes it: the container's limits, the group's labels."""
        kind: dict[str, Any] = self._kinds[pod.group]
        flags = [f"--num-cpus={kind['resources']['CPU']}", f"--num-gpus={kind['resources'].get('GPU', 0)}"]
        flags += [f"--memory={kind['resources']['memory']}", f"--temp-dir={pod.folder}"]
        labels = ",".join(f"{key}={value}" for key, value in kind["labels"].items())
        flags += [f"--labels={labels}"] if labels else []
        flags += [f"--dashboard-agent-listen-port={free_port()}", *FLAGS]
        return [*RAY, "start", "--block", *where, *flags]

    def _environment(self, pod: Pod, group: Manifest) -> dict[str, str]:
        """The container's, what KubeRay adds, and this machine's."""
        container = group["template"]["spec"]["containers"][0]
        about = {"RAY_CLOUD_INSTANCE_ID": pod.name, "RAY_NODE_TYPE_NAME": pod.group}
        return self._with_common(container["env"], about)

    def _with_common(self, variables: list[Manifest], more: Mapping[str, str]) -> dict[str, str]:
        manifest = {each["name"]: each["value"] for each in variables if "value" in each}
        # KubeRay tells the namespace to the autoscaler alone; in the head's pod Kubernetes has it in a file.
        kuberay = {
            **self.client_environment,
            "RAY_CLUSTER_NAME": self._name,
            "RAY_CLUSTER_NAMESPACE": self._namespace,
            "RAY_enable_autoscaler_v2": "1",
            # Several nodes, unlike the Ray of `tests/conftest.py`.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            # The image has this environment's `ray` and `python` on its path.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        merged = {**os.environ, **manifest, **kuberay, **more, **ENVIRONMENT, **self._given}
        return {name: value for name, value in merged.items() if value}

    @property
    def client_environment(self) -> dict[str, str]:
        """The Secret that the operator makes for `authOptions.mode: token`."""
        assert self._object["spec"]["authOptions"]["mode"] == "token"
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

    def _start_head(self) -> None:
        """The head's pod: Ray and, beside it, the autoscaler; only the head reaches the API server."""
        head = Pod(f"{self._name}-head", HEAD, self.folder / "head")
        self._pods.append(head)
        host, port = self.dashboard.split(":")
        where = ["--head", "--no-monitor", f"--port={self._gcs.split(':')[1]}"]
        where += [f"--dashboard-host={host}", f"--dashboard-port={port}"]
        group = self._object["spec"]["headGroupSpec"]
        environment = {**self._environment(head, group), **self.api.environment}
        head.start(self._command(head, where), environment)
        self._autoscaler = Pod("autoscaler", HEAD, self.folder / "autoscaler")
        command = [*RAY, "kuberay-autoscaler", "--cluster-name", self._name]
        command += ["--cluster-namespace", self._namespace, "--gcs-address", self._gcs]
        options = self._object["spec"]["autoscalerOptions"]["env"]
        own = {"RAY_HEAD_POD_NAME": head.name, **self.api.environment}
        self._autoscaler.start(command, self._with_common(options, own))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
