"""Each rule of `operation` refuses the one thing it is there for, broken in an overlay that ships."""

import pytest

from tests.infra import operation
from tests.infra.manifests import ALL, REMOVED, changed, rendered
from tests.infra.operation import operation_errors
from tests.infra.test_broken import Broken, _sentences

CLUSTER, SWEEP, TRACKING, RAY = "gke/cluster", "gke/sweep", "gke/tracking", "RayCluster"
HEAD = "spec headGroupSpec template spec containers 0"
SPOT = "spec workerGroupSpecs 1"
BOX = f"{SPOT} template spec containers 0"
FETCH = f"{SPOT} template spec initContainers 0 command"
GRACE = f"{SPOT} template spec terminationGracePeriodSeconds"
POD = "spec template spec"
EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
STORE = "spec headGroupSpec rayStartParams object-store-memory"

BROKEN: list[Broken] = [
    (CLUSTER, RAY, f"{SPOT} template metadata annotations {EVICT}", "true", "may be evicted"),
    (CLUSTER, RAY, "spec headGroupSpec template metadata", {}, "may be evicted"),
    (CLUSTER, RAY, f"{HEAD} volumeMounts 1 name", "ray", "not named ray-logs"),
    (CLUSTER, RAY, FETCH, ["hf download", "xswu/HPSv2"], "not repeated"),
    (CLUSTER, RAY, f"{BOX} env", [], "optional Secret"),
    ("single/cluster", RAY, STORE, "1900000000", "head: object-store-memory is above"),
    (CLUSTER, RAY, GRACE, 60, "is not 3 s below"),
    ("aks/cluster", RAY, GRACE, 60, "longer than a spot node's"),
    (CLUSTER, RAY, GRACE, 115, "longer than a spot node's"),
    (CLUSTER, RAY, f"{SPOT} maxReplicas", 4, "than the quota that the guide asks for"),
    (CLUSTER, RAY, "spec authOptions secretName", REMOVED, "named by chance"),
    (CLUSTER, RAY, f"{HEAD} ports 3 name", "autoscaler", "names no port"),
    (CLUSTER, RAY, f"{HEAD} ports 0 name", "client", "no policy lets"),
    (CLUSTER, RAY, f"{HEAD} env", [], "begun again"),
    (CLUSTER, RAY, f"{HEAD} env", [], "no bucket"),
    (SWEEP, "RayJob", "spec backoffLimit", 2, "would get new clusters"),
    (SWEEP, "RayJob", "spec submissionMode", "K8sJobMode", "HTTPMode has none"),
    (SWEEP, "RayJob", "spec entrypoint", "python -m orchestrator.run x", "fail for a week"),
    (TRACKING, "PodDisruptionBudget", "spec selector", {}, "keeps Ray's pods"),
    (TRACKING, "PodDisruptionBudget", "spec minAvailable", REMOVED, "only a number as minAvailable"),
    (TRACKING, "CronJob", "kind", "Job", "nothing copies them"),
    (TRACKING, "Deployment", f"{POD} containers 0 readinessProbe timeoutSeconds", 1, "its address away"),
    (TRACKING, "Deployment", f"{POD} volumes 0 emptyDir sizeLimit", "10Gi", "holds no large file"),
    (TRACKING, "Deployment", f"{POD} containers 0 env", [], "lacks the full name"),
]


@pytest.mark.parametrize("name", ALL)
def test_what_ships_holds_to_the_rules(name: str) -> None:
    assert operation_errors(rendered(name)) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken[1]} {broken[2]}")
def test_the_rules_refuse(broken: Broken) -> None:
    part, kind, path, value, words = broken
    assert any(words in error for error in operation_errors(changed(rendered(part), kind, path, value)))


def test_every_refusal_is_seen_once() -> None:
    broken = [changed(rendered(part), kind, path, value) for part, kind, path, value, _ in BROKEN]
    said = "\n".join(error for manifests in broken for error in operation_errors(manifests))
    assert [sentence for sentence in _sentences(operation) if sentence not in said] == []
