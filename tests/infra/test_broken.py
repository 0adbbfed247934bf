"""Every schema, check and rule refuses the one thing it is there for, broken in an overlay that ships."""

import ast
import inspect
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.infra import operator_checks, rules
from tests.infra.manifests import REMOVED, Json, Manifest, changed, rendered
from tests.infra.operator_checks import operator_errors
from tests.infra.rules import rule_errors
from tests.infra.validation import VERSIONS, schema_errors

Broken = tuple[str, str, str, Json, str]
"""Part, kind, path, the value put there, and words of the refusal."""
Find = Callable[[Manifest], list[str]]
CLUSTER, SWEEP, TRACKING = "gke/cluster", "gke/sweep", "gke/tracking"
HEAD = "spec headGroupSpec"
SPOT = "spec workerGroupSpecs 1"
BOX = f"{SPOT} template spec containers 0"
MLFLOW = "spec template spec"

SCHEMA: list[Broken] = [
    (CLUSTER, "RayCluster", "spec autoscalerOptions idleTimeoutSecond", 5, "idleTimeoutSecond"),
    (CLUSTER, "RayCluster", "spec autoscalerOptions version", "v3", "'v3' is not one of"),
    (CLUSTER, "RayCluster", f"{SPOT} maxReplicas", "4", "'4' is not of type 'integer'"),
    (CLUSTER, "RayCluster", f"{BOX} volumeMount", [], "volumeMount"),
    (CLUSTER, "RayCluster", f"{BOX} ports", [{"containerPort": "http"}], "is not of type 'integer'"),
    (SWEEP, "RayJob", "spec ttlSecondsAfterFinish", 5, "ttlSecondsAfterFinish"),
    (TRACKING, "CronJob", "spec jobTemplate spec template spec restartPolicie", "Never", "restartPolicie"),
    (TRACKING, "Deployment", "spec replica", 2, "replica"),
    (TRACKING, "Deployment", f"{MLFLOW} containers 0 envs", [], "envs"),
    (TRACKING, "NetworkPolicy", "spec policyTypes", "Ingress", "is not of type"),
    (TRACKING, "StatefulSet", "spec serviceName", 5, "5 is not of type 'string'"),
]

OPERATOR: list[Broken] = [
    (CLUSTER, "RayCluster", "metadata name", "n" * 54, "at most 53 characters"),
    (CLUSTER, "RayCluster", "metadata name", "1train", "a DNS label"),
    (SWEEP, "RayJob", "metadata name", "n" * 48, "at most 47 characters"),
    (CLUSTER, "RayCluster", f"{SPOT} template spec containers", [], "has no container"),
    (CLUSTER, "RayCluster", f"{HEAD} resources", {"CPU": "1"}, "in rayStartParams and in resources"),
    (CLUSTER, "RayCluster", f"{SPOT} rayStartParams labels", "a=b", "labels stand in rayStartParams"),
    (CLUSTER, "RayCluster", f"{SPOT} labels gpu", "A100 40GB", "not a label's value"),
    (CLUSTER, "RayCluster", f"{SPOT} suspend", True, "is suspended"),
    (CLUSTER, "RayCluster", f"{SPOT} template spec restartPolicy", "Always", "restartPolicy must be Never"),
    (
        CLUSTER,
        "RayCluster",
        f"{HEAD} template spec containers 0 env 0 name",
        "RAY_enable_autoscaler_v2",
        "both set",
    ),
    (
        CLUSTER,
        "RayCluster",
        f"{HEAD} template spec containers 0 env 0 name",
        "RAY_REDIS_ADDRESS",
        "without gcs",
    ),
    (CLUSTER, "RayCluster", f"{HEAD} rayStartParams redis-username", "me", "Redis user"),
    (CLUSTER, "RayCluster", f"{HEAD} rayStartParams redis-password", "secret", "Redis password"),
    (CLUSTER, "RayCluster", "spec gcsFaultToleranceOptions", {"backend": "rocksdb"}, "off by default"),
    (CLUSTER, "RayCluster", "spec rayVersion", "2.51.0", "authOptions.mode token needs"),
    (CLUSTER, "RayCluster", "spec rayVersion", "2.55.0", "priority needs"),
    (CLUSTER, "RayCluster", "spec rayVersion", "latest", "authOptions.mode token needs"),
    (CLUSTER, "RayCluster", "spec networkPolicy", {}, "RayClusterNetworkPolicy"),
    (CLUSTER, "RayCluster", "spec tlsOptions", {}, "RayClusterMTLS"),
    (SWEEP, "RayJob", "spec submissionMode", "K8sMode", "submissionMode is none of"),
    (
        SWEEP,
        "RayJob",
        "spec",
        {"submissionMode": "SidecarMode", "submitterPodTemplate": {}},
        "takes no submitterPodTemplate",
    ),
    (SWEEP, "RayJob", "spec rayClusterSpec", REMOVED, "neither rayClusterSpec nor"),
    (SWEEP, "RayJob", "spec shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs"),
    (SWEEP, "RayJob", "spec deletionStrategy", {"deletionRules": [{}]}, "exclude each other"),
    (SWEEP, "RayJob", "spec backoffLimit", -1, "backoffLimit not below"),
    (SWEEP, "RayJob", "spec rayClusterSpec rayVersion", "2.51.0", "authOptions.mode token needs"),
]

RULES: dict[str, list[Broken]] = {
    "images_are_pinned": [
        (CLUSTER, "RayCluster", f"{BOX} image", "rayproject/ray:latest", "full version"),
        (TRACKING, "Deployment", f"{MLFLOW} initContainers 0 image", "localhost:5000/mlflow", "full version"),
    ],
    "nothing_is_root": [
        (CLUSTER, "RayCluster", f"{SPOT} template spec securityContext runAsUser", 0, "runs as root"),
        (TRACKING, "StatefulSet", f"{MLFLOW} securityContext runAsUser", REMOVED, "runs as root"),
        (CLUSTER, "RayCluster", f"{BOX} securityContext runAsUser", 0, "ray-worker runs as root"),
    ],
    "pods_are_restricted": [
        (CLUSTER, "RayCluster", f"{SPOT} template spec hostNetwork", True, "namespace of its node"),
        (
            CLUSTER,
            "RayCluster",
            f"{SPOT} template spec volumes 1",
            {"name": "x", "hostPath": {"path": "/"}},
            "a kind",
        ),
        (TRACKING, "Deployment", f"{MLFLOW} containers 0 securityContext", {}, "keeps capabilities"),
        (CLUSTER, "RayCluster", f"{BOX} securityContext allowPrivilegeEscalation", True, "gain privileges"),
        (TRACKING, "StatefulSet", f"{MLFLOW} securityContext seccompProfile", REMOVED, "no seccomp profile"),
    ],
    "resources_are_bounded": [
        (
            CLUSTER,
            "RayCluster",
            f"{BOX} resources limits nvidia.com/gpu",
            REMOVED,
            "limits and requests alike",
        ),
        (CLUSTER, "RayCluster", f"{BOX} resources requests nvidia.com/gpu", 2, "limits and requests alike"),
        (CLUSTER, "RayCluster", f"{BOX} resources limits memory", "300Gi", "one memory"),
        (TRACKING, "Deployment", f"{MLFLOW} containers 0 resources", {}, "one memory"),
    ],
    "only_the_head_holds_a_token": [
        (CLUSTER, "RayCluster", f"{SPOT} template spec automountServiceAccountToken", True, "else false"),
        (
            CLUSTER,
            "RayCluster",
            f"{HEAD} template spec automountServiceAccountToken",
            False,
            "for Ray's head",
        ),
        (TRACKING, "Deployment", f"{MLFLOW} automountServiceAccountToken", REMOVED, "else false"),
    ],
    "workers_share_memory": [
        (CLUSTER, "RayCluster", f"{BOX} volumeMounts", [], "/dev/shm"),
        (CLUSTER, "RayCluster", f"{SPOT} template spec volumes 0 emptyDir", {}, "/dev/shm"),
    ],
    "head_runs_no_work": [(CLUSTER, "RayCluster", f"{HEAD} rayStartParams num-cpus", "3", "takes work")],
    "the_token_is_asked_for": [(CLUSTER, "RayCluster", "spec authOptions mode", "disabled", "is not token")],
    "groups_grow_and_shrink": [
        (CLUSTER, "RayCluster", "spec autoscalerOptions version", "v1", "v2 is not on"),
        (CLUSTER, "RayCluster", "spec enableInTreeAutoscaling", False, "v2 is not on"),
        (CLUSTER, "RayCluster", "spec autoscalerOptions idleTimeoutSeconds", REMOVED, "idleTimeoutSeconds"),
        (CLUSTER, "RayCluster", f"{SPOT} minReplicas", 1, "begin at 0"),
        (CLUSTER, "RayCluster", f"{SPOT} maxReplicas", REMOVED, "no bound"),
    ],
    "spot_comes_first": [
        (CLUSTER, "RayCluster", f"{SPOT} priority", 5, "stands in for it"),
        (CLUSTER, "RayCluster", f"{BOX} resources limits cpu", "20", "stands in for it"),
        (CLUSTER, "RayCluster", "spec autoscalerOptions env", [], "not in minutes"),
        (CLUSTER, "RayCluster", "spec autoscalerOptions env 0 value", "3600", "not in minutes"),
    ],
    "one_image_for_all": [
        (CLUSTER, "RayCluster", f"{BOX} image", "distillation/training:0.2.0", "several images")
    ],
    "sweeps_clean_up": [
        (SWEEP, "RayJob", "spec shutdownAfterJobFinishes", False, "outlives its sweep"),
        (SWEEP, "RayJob", "spec ttlSecondsAfterFinished", 86400, "outlives its sweep"),
        (SWEEP, "RayJob", "spec activeDeadlineSeconds", REMOVED, "hangs"),
    ],
    "the_namespace_is_closed": [
        (TRACKING, "Namespace", "metadata labels", {}, "restricted pod security"),
        (TRACKING, "NetworkPolicy", "spec policyTypes", ["Ingress"], "closes the namespace"),
    ],
}
OF_RULES = [broken for several in RULES.values() for broken in several]


def _name(broken: Broken) -> str:
    return f"{broken[1]} {broken[2]}"


@pytest.mark.parametrize("broken", SCHEMA, ids=_name)
def test_schemas_refuse(broken: Broken) -> None:
    part, kind, path, value, words = broken
    manifests = changed(rendered(part), kind, path, value)
    for version in VERSIONS:
        assert any(words in error for error in schema_errors(manifests, version)), version


@pytest.mark.parametrize("broken", OPERATOR, ids=_name)
def test_the_operators_checks_refuse(broken: Broken) -> None:
    part, kind, path, value, words = broken
    manifests = changed(rendered(part), kind, path, value)
    assert any(words in error for each in manifests for error in operator_errors(each))


@pytest.mark.parametrize("broken", OF_RULES, ids=_name)
def test_the_rules_refuse(broken: Broken) -> None:
    part, kind, path, value, words = broken
    assert any(words in error for error in rule_errors(changed(rendered(part), kind, path, value)))


@pytest.mark.parametrize(
    ("module", "every", "find"),
    [(operator_checks, OPERATOR, operator_errors), (rules, OF_RULES, lambda manifest: [])],
    ids=["operator", "rules"],
)
def test_every_refusal_is_seen_once(module: ModuleType, every: list[Broken], find: Find) -> None:
    """Each sentence that a check can say is said of some broken manifest above."""
    said = "\n".join(error for broken in every for error in _said(broken, find))
    assert [sentence for sentence in _sentences(module) if sentence not in said] == []


def _said(broken: Broken, find: Find) -> list[str]:
    part, kind, path, value, _ = broken
    manifests = changed(rendered(part), kind, path, value)
    return [error for each in manifests for error in find(each)] or rule_errors(manifests)


def _sentences(module: ModuleType) -> list[str]:
    """The longest fixed piece of every string that the module yields."""
    yields = (
        node.value for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Yield)
    )
    return [max(_texts(value), key=len) for value in yields if value]


def _texts(value: ast.expr) -> list[str]:
    parts = (part.value for part in ast.walk(value) if isinstance(part, ast.Constant))
    return [part for part in parts if isinstance(part, str)]
