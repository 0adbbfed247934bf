"""Capacity of a cluster: its nodes, or the node groups that an autoscaler grows from zero.

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
"""Ray label of a node: its kind of GPU, by a name in `gpu_specs.GPUS`. Ray's own label, which holds the
driver's name of the GPU, does not distinguish an A100 of 40 GB from one of 80."""
CLUSTER_NAME, NAMESPACE = "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"
"""Variables that KubeRay sets."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""File with the namespace in every pod that has a service account."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class NodeGroup:
    """A group of identical nodes."""

    name: str
    cpus: float
    gpus: float
    max_nodes: int
    """Number of nodes at the group's largest size."""
    labels: Mapping[str, str]

    def workers(self, plan: Plan) -> int:
        """Return how many workers of a trial all nodes hold; 0 if the kind of GPU is another."""
        requested = plan.sweep.resources
        if requested.gpu is not None and self.labels.get(GPU_LABEL, requested.gpu) != requested.gpu:
            return 0
        each = self.cpus / requested.cpus_per_worker
        if requested.gpus_per_worker:
            each = min(each, self.gpus / requested.gpus_per_worker)
        return self.max_nodes * int(each + ROUNDING)

    def __str__(self) -> str:
        kind = f" {self.labels[GPU_LABEL]}" if GPU_LABEL in self.labels else ""
        gpus = f" and {self.gpus:g} GPUs{kind}" if self.gpus else ""
        return f"{self.name}: {self.max_nodes} x {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Capacity:
    """All node groups of a cluster, at their largest size."""

    groups: Sequence[NodeGroup]

    def max_concurrent_trials(self, plan: Plan) -> int:
        """Return how many of the plan's trials run at once.

        Raises:
            UserError: the cluster cannot hold a single one, which would wait without end.
        """
        resources = plan.sweep.resources
        trials = min(
            sum(group.workers(plan) for group in self.groups) // resources.workers,
            int(sum(group.max_nodes * group.cpus for group in self.groups) / plan.cpus_per_trial + ROUNDING),
        )
        if trials == 0:
            kind = f" of {resources.gpu}" if resources.gpu else ""
            raise UserError(
                f"sweep {plan.sweep.name}: a trial requests {resources.workers} workers of "
                f"{resources.cpus_per_worker:g} CPUs and {resources.gpus_per_worker} GPUs{kind}, and "
                f"{plan.cpus_per_trial:g} CPUs in total; the cluster cannot hold one such trial ({self}): "
                f"lower resources.workers or cpus_per_worker, or enlarge the cluster"
            )
        return min(trials, resources.max_concurrent_trials or len(plan.trials), len(plan.trials))

    def node_labels(self, plan: Plan) -> dict[str, str]:
        """Return the node labels that a trial requires: the kind of GPU, if nodes have that label."""
        kind = plan.sweep.resources.gpu
        labelled = any(GPU_LABEL in group.labels for group in self.groups)
        return {GPU_LABEL: kind} if kind is not None and labelled else {}

    def __str__(self) -> str:
        return "; ".join(str(group) for group in self.groups if group.max_nodes and group.cpus) or "no CPUs"


def connected_capacity() -> Capacity:
    """Return the capacity of the cluster that this process is connected to."""
    import ray

    name = os.environ.get(CLUSTER_NAME)
    if name is not None:
        return capacity_of(_ray_cluster(name))
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Capacity([_node(node) for node in nodes])


def read_capacity(path: Path) -> Capacity:
    """Return the capacity of the RayCluster, or RayJob, among the manifests in a YAML file.

    Raises:
        UserError: the file cannot be read or holds no RayCluster.
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
    """Return the capacity of a RayCluster as Ray's own autoscaler reads it.

    Raises:
        UserError: the autoscaler cannot read it.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    try:
        config = _derive_autoscaling_config_from_ray_cr(ray_cluster)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"RayCluster: Ray's autoscaler cannot read it: {error!r}") from None
    head = config["head_node_type"]
    groups = config["available_node_types"].items()
    return Capacity(
        [_group(name, kind, 1 if name == head else int(kind["max_workers"])) for name, kind in groups]
    )


def _group(name: str, kind: Mapping[str, Any], max_nodes: int) -> NodeGroup:
    have = kind["resources"]
    return NodeGroup(name, have.get("CPU", 0), have.get("GPU", 0), max_nodes, kind["labels"])


def _node(node: Mapping[str, Any]) -> NodeGroup:
    have = node["Resources"]
    return NodeGroup(node["NodeName"], have.get("CPU", 0.0), have.get("GPU", 0.0), 1, node["Labels"])


def _ray_cluster(name: str) -> Mapping[str, Any]:
    """Return the RayCluster that this pod belongs to, from Kubernetes.

    Raises:
        UserError: Kubernetes does not answer, or does not let this pod read it.
    """
    import requests
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        namespace = os.environ.get(NAMESPACE) or NAMESPACE_FILE.read_text().strip()
        found: Mapping[str, Any] = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except (OSError, KeyError, requests.RequestException) as error:
        raise UserError(
            f"RayCluster {name}: cannot be read from Kubernetes ({error}), so its largest size is unknown: "
            f"launch on the head, or give its manifest with --cluster FILE"
        ) from None
    return found
