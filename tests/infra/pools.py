"""The node pools that each cloud's own file makes: read from it, by running it where it is a script."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.infra.manifests import KUBERNETES, Manifest, Pod, pods, ray_spec
from tests.infra.quantities import cpus, gibibytes
from tests.infra.rules import GPU

MACHINES = {
    "e2-standard-8": (8, 32, 0),
    "a2-highgpu-4g": (48, 340, 4),
    "m7i.2xlarge": (8, 32, 0),
    "g6e.12xlarge": (48, 384, 4),
    "Standard_D8s_v5": (8, 32, 0),
    "Standard_NC96ads_A100_v4": (96, 880, 4),
}
"""CPUs, memory in GiB and GPUs, by the clouds' own lists."""
FREE_CPU, FREE_MEMORY = 0.95, 0.85
"""Share of a node left to pods by the cloud's own reservations and daemons, on the safe side."""
RECORDER = """#!/bin/sh
(printf '%s\\t' "$@"; echo) >> "$RECORD"
case " $* " in
    *" --query "* | *" --format value"*) echo answer ;;
    *" describe "* | *" show "*) exit "$MISSING" ;;
esac
"""
"""Stands in for a cloud's command: writes down what it was called with, a tab after each word, and finds
nothing that it is asked for ($MISSING is 1), or everything (0)."""
SETTINGS = dict.fromkeys(("PROJECT", "BUCKET", "GROUP", "REGION", "ACCOUNT", "REGISTRY"), "mine") | {
    "ZONE": "europe-west4-a"
}


@dataclass(frozen=True)
class Pool:
    """Like nodes, of which there are as many as pods ask for."""

    name: str
    machine: str
    spot: bool
    fewest: int
    most: int
    labels: tuple[tuple[str, str], ...]
    taints: tuple[tuple[str, str], ...]
    """Key and value; all keep pods off that do not tolerate them."""

    @property
    def gpus(self) -> int:
        return MACHINES[self.machine][2]


def pools(cloud: str, folder: Path) -> list[Pool]:
    """Of a cloud; its script runs with a stand-in for the cloud's command in the empty `folder`."""
    if cloud == "eks":
        return list(_eks())
    commands = recorded(cloud, {"gke": "gcloud", "aks": "az"}[cloud], folder)
    return list(_gke(commands) if cloud == "gke" else _aks(commands))


def recorded(cloud: str, command: str, folder: Path, missing: bool = True) -> list[list[str]]:
    """What the cloud's script calls in an account in which all is missing, or in which all is there."""
    (folder / command).write_text(RECORDER)
    (folder / command).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    environment = {**SETTINGS, "PATH": path, "RECORD": str(folder / "record"), "MISSING": str(int(missing))}
    script = KUBERNETES / "overlays" / cloud / "pools.sh"
    subprocess.run(["bash", str(script)], env=environment, check=True, capture_output=True)
    return [line.split("\t")[:-1] for line in (folder / "record").read_text().splitlines()]


def _options(call: list[str]) -> dict[str, str]:
    """`--key value` and `--key` as a dictionary."""
    return {
        word: following if not following.startswith("--") else ""
        for word, following in zip(call, [*call[1:], ""], strict=True)
        if word.startswith("--")
    }


def _taints(text: str) -> list[tuple[str, str]]:
    return [
        (part.partition("=")[0], part.partition("=")[2].partition(":")[0]) for part in text.split(",") if part
    ]


def _gke(calls: list[list[str]]) -> Iterator[Pool]:
    for call in calls:
        if "create" not in call or not {"clusters", "node-pools"} & set(call):
            continue
        options, name = _options(call), call[call.index("create") + 1]
        labels, taints = {"cloud.google.com/gke-nodepool": name}, _taints(options.get("--node-taints", ""))
        # What GKE puts on nodes by itself.
        if "--accelerator" in options:
            kind = dict(part.split("=") for part in options["--accelerator"].split(","))["type"]
            labels["cloud.google.com/gke-accelerator"] = kind
            taints.append((GPU, "present"))
        if "--spot" in options:
            labels["cloud.google.com/gke-spot"] = "true"
        fewest, most = int(options["--min-nodes"]), int(options["--max-nodes"])
        machine, spot = options["--machine-type"], "--spot" in options
        yield Pool(name, machine, spot, fewest, most, tuple(labels.items()), tuple(taints))


def _aks(calls: list[list[str]]) -> Iterator[Pool]:
    for call in calls:
        if call[:2] != ["aks", "create"] and call[:3] != ["aks", "nodepool", "add"]:
            continue
        options, machine = _options(call), _options(call)["--node-vm-size"]
        labels, taints = (
            {"node.kubernetes.io/instance-type": machine},
            _taints(options.get("--node-taints", "")),
        )
        spot = options.get("--priority") == "Spot"
        if spot:  # what AKS puts on nodes by itself
            labels["kubernetes.azure.com/scalesetpriority"] = "spot"
            taints.append(("kubernetes.azure.com/scalesetpriority", "spot"))
        fewest, most = int(options["--min-count"]), int(options["--max-count"])
        yield Pool(options["--name"], machine, spot, fewest, most, tuple(labels.items()), tuple(taints))


def _eks() -> Iterator[Pool]:
    file = yaml.safe_load((KUBERNETES / "overlays/eks/cluster.yaml").read_text())
    for group in file["managedNodeGroups"]:
        (machine,), spot = group.get("instanceTypes") or [group["instanceType"]], bool(group.get("spot"))
        labels = {"node.kubernetes.io/instance-type": machine}
        # Labels that EKS gives nodes are not known of a group that has none; only what is in its tags is.
        if group.get("propagateASGTags"):
            labels |= group.get("labels", {})
        taints = tuple((taint["key"], taint["value"]) for taint in group.get("taints", []))
        yield Pool(
            group["name"], machine, spot, group["minSize"], group["maxSize"], tuple(labels.items()), taints
        )


def homes(pod: Pod, pools: list[Pool]) -> list[Pool]:
    """The pools whose nodes a pod may land on, and that hold it."""
    return [pool for pool in pools if _selects(pod, pool) and _tolerates(pod, pool) and _holds([pod], pool)]


def _selects(pod: Pod, pool: Pool) -> bool:
    return set(pod.spec.get("nodeSelector", {}).items()) <= set(pool.labels)


def _tolerates(pod: Pod, pool: Pool) -> bool:
    tolerations = pod.spec.get("tolerations", [])
    return all(any(_matches(each, key, value) for each in tolerations) for key, value in pool.taints)


def _matches(toleration: Manifest, key: str, value: str) -> bool:
    if toleration["key"] != key or toleration.get("effect", "NoSchedule") != "NoSchedule":
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value") == value


def _holds(several: list[Pod], pool: Pool) -> bool:
    """Whether one node holds all of these."""
    cores, memory, gpus = MACHINES[pool.machine]
    asked = [container["resources"]["requests"] for pod in several for container in pod.spec["containers"]]
    return (
        sum(cpus(each["cpu"]) for each in asked) <= cores * FREE_CPU
        and sum(gibibytes(each["memory"]) for each in asked) <= memory * FREE_MEMORY
        and sum(int(each.get(GPU, 0)) for each in asked) <= gpus
    )


def pool_errors(manifests: list[Manifest], pools: list[Pool]) -> list[str]:
    """Pods that find no node, or one that they must not have."""
    return [f"{pod.where}: {error}" for pod in pods(manifests) for error in _landing(pod, manifests, pools)]


def _landing(pod: Pod, manifests: list[Manifest], pools: list[Pool]) -> Iterator[str]:
    landing = homes(pod, pools)
    if not landing:
        yield "no node pool has its labels, tolerated taints and size"
        return
    groups = (
        {group["groupName"]: group for group in ray_spec(manifests)["workerGroupSpecs"]} if pod.group else {}
    )
    group = groups.get(pod.group, {})
    spot = group.get("labels", {}).get("ray.io/market-type") == "spot"
    wants_gpu = any(GPU in container["resources"]["requests"] for container in pod.containers)
    for pool in landing:
        if bool(pool.gpus) is not wants_gpu or pool.spot is not spot:
            yield f"may land on pool {pool.name}, which is dearer or less sure than it should be"
    if wants_gpu and group["maxReplicas"] > sum(pool.most for pool in landing):
        yield "maxReplicas is above what its pools can grow to"


def one_node_holds(manifests: list[Manifest], pools: list[Pool]) -> bool:
    """Whether what always runs, all but workers and what runs by night, fits one node without GPUs."""
    always = [pod for pod in pods(manifests) if pod.group in ("", "head") and "CronJob" not in pod.where]
    return any(_holds(always, pool) for pool in pools if not pool.gpus)
