"""What the KubeRay 1.7 operator refuses although its schema lets it pass.

After `ray-operator/controllers/ray/utils/validation.go`; those of its checks that these manifests could fail.
"""

import re
from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from tests.infra.manifests import Manifest

LONGEST_CLUSTER, LONGEST_JOB = 53, 47
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
TOKEN_SINCE, PRIORITY_SINCE = Version("2.52.0"), Version("2.56.0")
RESOURCE_FLAGS = ("num-cpus", "num-gpus", "memory", "resources")
GATED = {"networkPolicy": "RayClusterNetworkPolicy", "tlsOptions": "RayClusterMTLS"}
SUBMISSIONS = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")


def operator_errors(manifest: Manifest) -> list[str]:
    """Why the operator would refuse a RayCluster or RayJob; nothing else concerns it."""
    if manifest["kind"] == "RayCluster":
        return [*_name(manifest, LONGEST_CLUSTER), *_cluster(manifest["spec"])]
    if manifest["kind"] == "RayJob":
        return [*_name(manifest, LONGEST_JOB), *_job(manifest["spec"])]
    return []


def _name(manifest: Manifest, longest: int) -> Iterator[str]:
    name = manifest["metadata"]["name"]
    if len(name) > longest or not DNS_LABEL.fullmatch(name):
        yield f"{manifest['kind']} {name}: a DNS label of at most {longest} characters is needed"


def _cluster(spec: Manifest) -> Iterator[str]:
    head = {"groupName": "head", **spec["headGroupSpec"]}
    for group in (head, *spec["workerGroupSpecs"]):
        yield from _group(group)
    yield from _autoscaler(spec, head)
    yield from _versions(spec)
    yield from _state(spec, head)
    for field, gate in GATED.items():
        if field in spec:
            yield f"{field}: needs the operator's gate {gate}, off by default"


def _group(group: Manifest) -> Iterator[str]:
    name, flags = group["groupName"], group.get("rayStartParams") or {}
    if not group["template"]["spec"].get("containers"):
        yield f"{name}: has no container"
    if group.get("resources") and any(flags.get(flag) for flag in RESOURCE_FLAGS):
        yield f"{name}: resources stand in rayStartParams and in resources"
    if "labels" in flags:
        yield f"{name}: labels stand in rayStartParams; the group has a field for them"
    for key, value in group.get("labels", {}).items():
        if not LABEL_VALUE.fullmatch(value):
            yield f"{name}: label {key}: {value!r} is not a label's value"


def _autoscaler(spec: Manifest, head: Manifest) -> Iterator[str]:
    groups = [head, *spec["workerGroupSpecs"]]
    if not spec.get("enableInTreeAutoscaling"):
        return
    if any(group.get("suspend") for group in groups):
        yield "a group is suspended, which the autoscaler does not know"
    if spec.get("autoscalerOptions", {}).get("version") != "v2":
        return
    if "RAY_enable_autoscaler_v2" in _environment(head):
        yield "autoscalerOptions.version and RAY_enable_autoscaler_v2 are both set"
    for group in groups:
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{group['groupName']}: restartPolicy must be Never under autoscaler v2"


def _versions(spec: Manifest) -> Iterator[str]:
    try:
        version = Version(spec.get("rayVersion", "0"))
    except InvalidVersion:
        version = Version("0")
    if spec.get("authOptions", {}).get("mode") == "token" and version < TOKEN_SINCE:
        yield f"authOptions.mode token needs rayVersion {TOKEN_SINCE} or newer"
    if any("priority" in group for group in spec["workerGroupSpecs"]) and version < PRIORITY_SINCE:
        yield f"priority needs rayVersion {PRIORITY_SINCE} or newer"


def _state(spec: Manifest, head: Manifest) -> Iterator[str]:
    options, environment = spec.get("gcsFaultToleranceOptions"), _environment(head)
    flags = head.get("rayStartParams") or {}
    if "redis-username" in flags or "REDIS_USERNAME" in environment:
        yield "the Redis user stands outside gcsFaultToleranceOptions"
    if options is None and "RAY_REDIS_ADDRESS" in environment:
        yield "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
    if "redis-password" in flags or "REDIS_PASSWORD" in environment:
        yield "the Redis password stands outside gcsFaultToleranceOptions"
    if options is not None and options.get("backend") == "rocksdb":
        yield "backend rocksdb: needs the operator's gate GCSFaultToleranceEmbeddedStorage, off by default"


def _environment(group: Manifest) -> set[str]:
    return {variable["name"] for variable in group["template"]["spec"]["containers"][0].get("env", [])}


def _job(spec: Manifest) -> Iterator[str]:
    shutdown = bool(spec.get("shutdownAfterJobFinishes"))
    if spec.get("submissionMode", "K8sJobMode") not in SUBMISSIONS:
        yield f"submissionMode is none of {', '.join(SUBMISSIONS)}"
    if not (spec.get("rayClusterSpec") or spec.get("clusterSelector")):
        yield "neither rayClusterSpec nor clusterSelector is given"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("deletionStrategy") and shutdown:
        yield "deletionStrategy and shutdownAfterJobFinishes exclude each other"
    if spec.get("activeDeadlineSeconds", 1) <= 0 or spec.get("backoffLimit", 0) < 0:
        yield "activeDeadlineSeconds must be above 0, and backoffLimit not below"
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        yield "SidecarMode takes no submitterPodTemplate"
    if spec.get("rayClusterSpec"):
        yield from _cluster(spec["rayClusterSpec"])
