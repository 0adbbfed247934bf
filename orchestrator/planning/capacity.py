"""What a cluster can hold: the nodes that are there, or the groups that its autoscaler grows from zero.

On Kubernetes the groups are those of the RayCluster that this launch's head belongs to, read with
the account that Ray's own autoscaler uses there, or of a manifest that the user gives. Elsewhere
each node that Ray knows is a group of one.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.common.errors import UserError
from orchestrator.planning.plan import Plan

GPU_LABEL = "gpu"
"""Ray label of a node: its kind of GPU, by the names of `gpus`. Ray's own label for it, of the
driver's words, does not tell an A100 of 40 GB from one of 80."""
CLUSTER_NAME, NAMESPACE = "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"
"""Variables that KubeRay sets."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes says it in every pod that has an account."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class NodeGroup:
    """Like nodes, of which there are `most`, or can be."""

    name: str
    cpus: float
    gpus: float
    most: int
    labels: Mapping[str, str]

    def workers(self, plan: Plan) -> int:
        """How many of a trial's workers all of its nodes hold; none if they are of another kind of GPU."""
        asked = plan.sweep.resources
        if asked.gpu is not None and self.labels.get(GPU_LABEL, asked.gpu) != asked.gpu:
            return 0
        each = self.cpus / asked.cpus_per_worker
        if asked.gpus_per_worker:
            each = min(each, self.gpus / asked.gpus_per_worker)
        return self.most * int(each + ROUNDING)

    def __str__(self) -> str:
        kind = f" {self.labels[GPU_LABEL]}" if GPU_LABEL in self.labels else ""
        gpus = f" and {self.gpus:g} GPUs{kind}" if self.gpus else ""
        return f"{self.name}: {self.most} x {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Capacity:
    """All groups of a cluster, at their largest."""

    groups: Sequence[NodeGroup]

    def max_concurrent_trials(self, plan: Plan) -> int:
        """How many of the plan's trials run side by side.

        Raises:
            UserError: not even one, which would wait for ever.
        """
        resources = plan.sweep.resources
        trials = min(
            sum(group.workers(plan) for group in self.groups) // resources.workers,
            int(sum(group.most * group.cpus for group in self.groups) / plan.cpus_per_trial + ROUNDING),
        )
        if trials == 0:
            kind = f" of {resources.gpu}" if resources.gpu else ""
            raise UserError(
                f"sweep {plan.sweep.name}: a trial asks for {resources.workers} workers of "
                f"{resources.cpus_per_worker:g} CPUs and {resources.gpus_per_worker} GPUs{kind}, and "
                f"{plan.cpus_per_trial:g} CPUs in all; the cluster holds no such trial ({self}): lower "
                f"resources.workers or cpus_per_worker, or give the cluster more"
            )
        return min(trials, resources.max_concurrent_trials or len(plan.trials), len(plan.trials))

    def node_labels(self, plan: Plan) -> dict[str, str]:
        """Labels of the nodes that a trial's workers may run on: the GPU's kind, where nodes tell theirs."""
        kind = plan.sweep.resources.gpu
        told = any(GPU_LABEL in group.labels for group in self.groups)
        return {GPU_LABEL: kind} if kind is not None and told else {}

    def __str__(self) -> str:
        return "; ".join(str(group) for group in self.groups if group.most and group.cpus) or "no CPUs"


def connected_capacity() -> Capacity:
    """Of the cluster that this process is connected to."""
    import ray

    name = os.environ.get(CLUSTER_NAME)
    if name is not None:
        return capacity_of(_ray_cluster(name))
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Capacity([_node(node) for node in nodes])


def read_capacity(path: Path) -> Capacity:
    """Of the RayCluster, or RayJob, among the manifests in a YAML file.

    Raises:
        UserError: there is none in it.
    """
    import yaml

    try:
        manifests = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(getattr(error, "strerror", "") or error).splitlines()[0]
        raise UserError(f"--cluster {path}: cannot be read: {reason}") from None
    for manifest in (manifest for manifest in manifests if isinstance(manifest, dict)):
        spec = manifest.get("spec") or {}
        spec = {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec")}.get(manifest.get("kind", ""))
        if spec:
            return capacity_of({"metadata": {"name": "train", "namespace": "default"}, "spec": spec})
    raise UserError(
        f"--cluster {path}: holds no RayCluster: write one there with "
        f"kubectl kustomize infra/kubernetes/overlays/OVERLAY/cluster"
    )


def capacity_of(ray_cluster: Mapping[str, Any]) -> Capacity:
    """Of a RayCluster, as Ray's own autoscaler reads it.

    Raises:
        UserError: it cannot be read so.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    try:
        config = _derive_autoscaling_config_from_ray_cr(ray_cluster)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"RayCluster: Ray's autoscaler cannot read it: {error!r}") from None
    head = config["head_node_type"]
    groups = config["available_node_types"].items()
    return Capacity([_group(name, kind, most=1 if name == head else None) for name, kind in groups])


def _group(name: str, kind: Mapping[str, Any], most: int | None) -> NodeGroup:
    have = kind["resources"]
    most = int(kind["max_workers"]) if most is None else most
    return NodeGroup(name, have.get("CPU", 0), have.get("GPU", 0), most, kind["labels"])


def _node(node: Mapping[str, Any]) -> NodeGroup:
    have = node["Resources"]
    return NodeGroup(node["NodeName"], have.get("CPU", 0.0), have.get("GPU", 0.0), 1, node["Labels"])


def _ray_cluster(name: str) -> Mapping[str, Any]:
    """The RayCluster that this pod belongs to, from Kubernetes.

    Raises:
        UserError: Kubernetes does not answer, or does not let this pod see it.
    """
    import requests
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        namespace = os.environ.get(NAMESPACE) or NAMESPACE_FILE.read_text().strip()
        found: Mapping[str, Any] = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except (OSError, KeyError, requests.RequestException) as error:
        raise UserError(
            f"RayCluster {name}: cannot be read from Kubernetes ({error}), so what it can grow to is not "
            f"known: launch it on the head, or give its manifest with --cluster FILE"
        ) from None
    return found
