"""Node groups of a cluster: of the connected Ray, of Kubernetes, or of a manifest.

On Kubernetes the groups are those of the RayCluster that this launch's head belongs to, read with the
account of Ray's own autoscaler. Elsewhere each node that Ray knows is a group of one.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml

from orchestrator.common.errors import UserError
from orchestrator.common.ray_internals import autoscaling_config, kubernetes_get
from orchestrator.planning.capacity import Capacity, NodeGroup

CLUSTER_NAME, NAMESPACE = "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"
"""Variables that KubeRay sets."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""File with the namespace in every pod that has a service account."""


def connected_capacity() -> Capacity:
    """Return the capacity of the cluster that this process is connected to."""
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
    try:
        config = autoscaling_config(ray_cluster)
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

    try:
        namespace = os.environ.get(NAMESPACE) or NAMESPACE_FILE.read_text().strip()
        return kubernetes_get(namespace, f"rayclusters/{name}")
    except (OSError, KeyError, requests.RequestException) as error:
        raise UserError(
            f"RayCluster {name}: cannot be read from Kubernetes ({error}), so its largest size is unknown: "
            f"launch on the head, or give its manifest with --cluster FILE"
        ) from None
