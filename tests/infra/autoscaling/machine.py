"""The RayCluster of the repository, and all that this machine makes different about it."""

from tests.infra.manifests import Manifest, changed, rendered

OVERLAY = "gke/cluster"
# A trial starts again in less, and so does a pod, on two busy cores.
IDLE_SECONDS, SOLD_OUT_SECONDS, EXPIRY_SECONDS = 30, 60, 40
LOGICAL = {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": 1}
GROUPS = "spec workerGroupSpecs"
LIMITS = "template spec containers 0 resources limits"
CHANGES = {
    # Minutes there, seconds here.
    "spec autoscalerOptions idleTimeoutSeconds": (300, IDLE_SECONDS),
    "spec autoscalerOptions env 0 value": ("1500", str(SOLD_OUT_SECONDS)),
    # A node of the smallest size: one GPU, which is logical, so a trial of one worker fills it. Ray starts
    # a process for each CPU ahead of work, and here are two.
    f"{GROUPS} 0 {LIMITS} cpu": ("6", "2"),
    f"{GROUPS} 1 maxReplicas": (1, 4),
    f"{GROUPS} 2 maxReplicas": (1, 4),
    f"{GROUPS} 1 {LIMITS}": ({"cpu": "40", "memory": "280Gi", "nvidia.com/gpu": 4}, LOGICAL),
    f"{GROUPS} 2 {LIMITS}": ({"cpu": "40", "memory": "280Gi", "nvidia.com/gpu": 4}, LOGICAL),
}
"""By place: what the manifest says, and what is put there instead."""
FLAGS = ("--object-store-memory=150000000", "--node-ip-address=127.0.0.1", "--disable-usage-stats")
"""Of every `ray start`: all nodes share this machine's memory and address."""
ENVIRONMENT = {
    # The autoscaler looks, and a lost node is noticed, within seconds: 5 s and 15 s by default.
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # For which Ray Train's and Ray Data's requests for nodes outlive whoever made them and was killed: 180 s
    # by default, and to be made anew every 20 s.
    "CHAOS_EXPIRY": str(EXPIRY_SECONDS),
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": str(EXPIRY_SECONDS),
    # Nothing is downloaded, and records are kept in the storage.
    "HF_HOME": "",
    "MLFLOW_TRACKING_URI": "",
}
"""Of every process, over what the manifest has; an empty one is taken out."""


def ray_cluster() -> Manifest:
    """The rendered RayCluster with `CHANGES`; a place that is no longer as it was is told of."""
    manifests = rendered(OVERLAY)
    for path, (there, here) in CHANGES.items():
        assert _at(manifests, path) == there, f"{path} has changed in the manifests: {_at(manifests, path)}"
        manifests = changed(manifests, "RayCluster", path, here)
    return _cluster(manifests)


def _cluster(manifests: list[Manifest]) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == "RayCluster"]
    return found


def _at(manifests: list[Manifest], path: str) -> object:
    node: object = _cluster(manifests)
    for key in path.split(" "):
        node = node[int(key)] if isinstance(node, list) else node[key]  # type: ignore[index]
    return node
