"""The house's own rules for manifests: what no schema asks for, and a sweep or its owner would miss."""

import re
from collections.abc import Callable, Iterator

from tests.infra.manifests import Manifest, Pod, pods, ray_spec

GPU = "nvidia.com/gpu"
PINNED = re.compile(r"[^@\s]+(:\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
"""Those that restricted pod security allows, and a secret's."""
FALL_BACK = range(300, 1801)
"""Seconds without a spot node after which on demand is taken: longer than a node takes to boot and to pull
the image, and far from the default hour."""


def images_are_pinned(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if not PINNED.fullmatch(container["image"]):
            yield f"image {container['image']}: give its full version or digest"


def nothing_is_root(pod: Pod) -> Iterator[str]:
    security = pod.spec.get("securityContext", {})
    if not security.get("runAsUser") or not security.get("runAsNonRoot"):
        yield "runs as root, or as whoever its image says: set runAsUser and runAsNonRoot"
    for container in pod.containers:
        if container.get("securityContext", {}).get("runAsUser", 1) == 0:
            yield f"container {container['name']} runs as root"


def pods_are_restricted(pod: Pod) -> Iterator[str]:
    """What the namespace's pod security would refuse."""
    if any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of its node"
    for volume in pod.spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    seccomp = pod.spec.get("securityContext", {}).get("seccompProfile", {}).get("type")
    for container in pod.containers:
        security, name = container.get("securityContext", {}), container["name"]
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"container {name} may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"container {name} keeps capabilities"
        if security.get("seccompProfile", {}).get("type", seccomp) != "RuntimeDefault":
            yield f"container {name} has no seccomp profile"


def resources_are_bounded(pod: Pod) -> Iterator[str]:
    """A pod that may take more memory than it asked for is the first to be killed for another's."""
    for container in pod.containers:
        resources, name = container.get("resources", {}), container["name"]
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if not requests.get("cpu") or "memory" not in limits or limits["memory"] != requests.get("memory"):
            yield f"container {name}: needs a CPU request, and one memory for request and limit"
        if limits.get(GPU) != requests.get(GPU):
            yield f"container {name}: {GPU} must stand in limits and requests alike"


def only_the_head_holds_a_token(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not (pod.group == "head"):
        yield "automountServiceAccountToken: true for Ray's head, whose autoscaler needs it, else false"


def workers_share_memory(pod: Pod) -> Iterator[str]:
    """Ray's object store and torch's loaders need more than the 64 MB of a container's own /dev/shm."""
    if not pod.group:
        return
    mounts = {
        mount["mountPath"]: mount["name"] for mount in pod.spec["containers"][0].get("volumeMounts", [])
    }
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    shared = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    if shared.get("medium") != "Memory" or not shared.get("sizeLimit"):
        yield "/dev/shm: mount an emptyDir of medium Memory, with a sizeLimit"


POD_RULES: tuple[Callable[[Pod], Iterator[str]], ...] = (
    images_are_pinned,
    nothing_is_root,
    pods_are_restricted,
    resources_are_bounded,
    only_the_head_holds_a_token,
    workers_share_memory,
)


def head_runs_no_work(spec: Manifest) -> Iterator[str]:
    flags = spec["headGroupSpec"].get("rayStartParams", {})
    if flags.get("num-cpus") != "0" or flags.get("num-gpus") != "0":
        yield "the head takes work: rayStartParams {num-cpus: '0', num-gpus: '0'}"


def the_token_is_asked_for(spec: Manifest) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches the head could run anything"


def groups_grow_and_shrink(spec: Manifest) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "autoscaler v2 is not on"
    if not options.get("idleTimeoutSeconds"):
        yield "autoscalerOptions.idleTimeoutSeconds is not set"
    for group in spec["workerGroupSpecs"]:
        if _gpus(group) and (group.get("replicas", 0) or group.get("minReplicas", 0)):
            yield f"group {group['groupName']}: GPUs are paid for without a sweep; begin at 0"
        if not group.get("maxReplicas"):
            yield f"group {group['groupName']}: has no bound on what it may cost: set maxReplicas"


def spot_comes_first(spec: Manifest) -> Iterator[str]:
    """The autoscaler goes by fit before priority, so both groups must fit alike."""
    groups = [group for group in spec["workerGroupSpecs"] if _gpus(group)]
    spot = [group for group in groups if _market(group) == "spot"]
    for group in spot:
        name, shape = group["groupName"], _shape(group)
        twins = [twin for twin in groups if _market(twin) == "on-demand" and _shape(twin) == shape]
        if not any(group.get("priority", 0) > twin.get("priority", 0) for twin in twins):
            yield f"group {name}: no on-demand group of the same shape and lower priority stands in for it"
    if spot and _variable(spec, "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S") not in FALL_BACK:
        yield "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S: not in minutes, so a sold-out spot stalls"


def one_image_for_all(spec: Manifest) -> Iterator[str]:
    """Head and workers must agree on Ray and Python to the patch."""
    groups = (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    if len(images) > 1:
        yield f"head and workers are of several images: {', '.join(sorted(images))}"


CLUSTER_RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    head_runs_no_work,
    the_token_is_asked_for,
    groups_grow_and_shrink,
    spot_comes_first,
    one_image_for_all,
)


def _gpus(group: Manifest) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"].get("limits", {}).get(GPU, 0))


def _market(group: Manifest) -> str:
    return str(group.get("labels", {}).get("ray.io/market-type", ""))


def _shape(group: Manifest) -> tuple[Manifest, str]:
    resources: Manifest = group["template"]["spec"]["containers"][0]["resources"]
    return resources, group.get("labels", {}).get("gpu", "")


def _variable(spec: Manifest, name: str) -> int:
    environment = spec.get("autoscalerOptions", {}).get("env", [])
    return next((int(entry["value"]) for entry in environment if entry["name"] == name), 0)


def sweeps_clean_up(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    if not spec.get("shutdownAfterJobFinishes") or spec.get("ttlSecondsAfterFinished", 0) > 300:
        yield "the cluster outlives its sweep: shutdownAfterJobFinishes, and a short ttlSecondsAfterFinished"
    if not spec.get("activeDeadlineSeconds"):
        yield "a sweep that hangs is paid for without end: set activeDeadlineSeconds"


def the_namespace_is_closed(manifests: list[Manifest]) -> Iterator[str]:
    (namespace,) = [manifest for manifest in manifests if manifest["kind"] == "Namespace"]
    if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce restricted pod security"
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    if closed not in policies:
        yield "no network policy closes the namespace"


def rule_errors(manifests: list[Manifest]) -> list[str]:
    """What the house's rules find, each with where."""
    errors = [f"{pod.where}: {error}" for pod in pods(manifests) for rule in POD_RULES for error in rule(pod)]
    kinds = {manifest["kind"] for manifest in manifests}
    if kinds & {"RayCluster", "RayJob"}:
        errors += [error for rule in CLUSTER_RULES for error in rule(ray_spec(manifests))]
    if "Namespace" in kinds:
        errors += the_namespace_is_closed(manifests)
    for manifest in manifests:
        if manifest["kind"] == "RayJob":
            errors += sweeps_clean_up(manifest)
    return errors
