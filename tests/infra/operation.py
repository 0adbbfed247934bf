"""The house's rules for clusters that run for days: what they lose, what they cost, and what they say."""

from collections.abc import Callable, Iterator

from tests.infra.manifests import Manifest, Pod, pods, ray_spec
from tests.infra.quantities import gibibytes
from tests.infra.rules import GPU

KEPT = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of a pod that no autoscaler of nodes may move to save a node."""
NOTICE = {"cloud.google.com/gke-spot": 105, "kubernetes.azure.com/scalesetpriority": 30, "pool": 120}
"""Seconds that a pod has when its spot node is taken away, by the label that its cloud's overlay selects spot
nodes with. GKE's are by `nodes.yaml`; without that file, 15."""
SHARE = 0.95
"""Of /dev/shm that Ray's object store may take; above, Ray puts the store on a disk."""
PAID_AT_ONCE = 4
"""GPUs of a group that the guide's quota pays for."""
SLOWEST_UPLOAD = 600
"""Seconds in which MLflow must have handed a file of 10 GB on to the bucket."""
LARGEST_FILE = 20.0
"""GiB that an upload and a download may lay down beside each other in MLflow's /tmp."""


def pods_stay_where_they_are(pod: Pod) -> Iterator[str]:
    if pod.group and not KEPT.items() <= pod.annotations.items():
        yield f"may be evicted to save a node: annotations {KEPT}"


def logs_are_shared(pod: Pod) -> Iterator[str]:
    """The operator gives the autoscaler the head's logs by a volume of this name alone."""
    mounts = pod.spec["containers"][0].get("volumeMounts", []) if pod.group else []
    if any(mount["mountPath"] == "/tmp/ray" and mount["name"] != "ray-logs" for mount in mounts):
        yield "the volume at /tmp/ray is not named ray-logs: the autoscaler says nothing to the driver"


def fetches_are_repeated(pod: Pod) -> Iterator[str]:
    """A pod that fails is made again at once, on a node that is paid for."""
    for container in pod.spec.get("initContainers", []):
        words = " ".join(container.get("command", []))
        if "hf download" in words and "sleep" not in words:
            yield f"{container['name']}: a fetch that fails is not repeated after a while"


def the_hub_knows_us(pod: Pod) -> Iterator[str]:
    """Without a token gated weights are refused, and many nodes at one address are slowed down."""
    for container in pod.containers if pod.group else []:
        token = [each for each in container.get("env", []) if each["name"] == "HF_TOKEN"]
        if not token or not token[0]["valueFrom"]["secretKeyRef"].get("optional"):
            yield f"container {container['name']}: HF_TOKEN is not taken from an optional Secret"


POD_RULES: tuple[Callable[[Pod], Iterator[str]], ...] = (
    pods_stay_where_they_are,
    logs_are_shared,
    fetches_are_repeated,
    the_hub_knows_us,
)


def stores_fit(spec: Manifest) -> Iterator[str]:
    for group in ({"groupName": "head", **spec["headGroupSpec"]}, *spec["workerGroupSpecs"]):
        store = int(group.get("rayStartParams", {}).get("object-store-memory", 0)) / 2**30
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        shared = volumes.get("shm", {}).get("emptyDir", {}).get("sizeLimit", "0Gi")
        if store > SHARE * gibibytes(shared):
            yield f"{group['groupName']}: object-store-memory is above {SHARE} of /dev/shm"


def checkpoints_have_their_time(spec: Manifest) -> Iterator[str]:
    """A node's drain ends before the pod's grace, and this before the node is gone."""
    for group in spec["workerGroupSpecs"]:
        pod, name = group["template"]["spec"], group["groupName"]
        grace = pod.get("terminationGracePeriodSeconds", 30)
        drain = _environment(pod["containers"][0]).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "30")
        if float(drain) != grace - 3:
            yield f"{name}: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is not 3 s below the pod's grace of {grace}"
        notices = [NOTICE[key] for key in pod.get("nodeSelector", {}) if key in NOTICE]
        if grace > min(notices, default=120):
            yield f"{name}: its grace of {grace} s is longer than a spot node's notice"


def cost_is_capped(spec: Manifest) -> Iterator[str]:
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"].get("limits", {})
        if int(limits.get(GPU, 0)) * group["maxReplicas"] > PAID_AT_ONCE:
            yield f"{group['groupName']}: more GPUs than the quota that the guide asks for: gpu-nodes"


def the_token_has_a_name(spec: Manifest) -> Iterator[str]:
    if spec.get("authOptions", {}).get("secretName") != "ray-token":
        yield "authOptions.secretName: a sweep's token is in a Secret that is named by chance"


def the_head_is_reached(spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    if not {("metrics", 8080), ("as-metrics", 44217), ("dash-metrics", 44227)} <= set(ports.items()):
        yield "the head names no port for the figures of Ray, its autoscaler or its dashboard"
    if "client" in ports:
        yield "the port of Ray's client is declared, and no policy lets anybody in"
    environment = _environment(head)
    if float(environment.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 120)) < SLOWEST_UPLOAD:
        yield "MLFLOW_HTTP_REQUEST_TIMEOUT: a large file that MLflow hands on is given up and begun again"
    if not environment.get("ORCHESTRATOR_STORAGE", "").partition("://")[2]:
        yield "ORCHESTRATOR_STORAGE: no bucket: a launch would write into the head's pod"


CLUSTER_RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    stores_fit,
    checkpoints_have_their_time,
    cost_is_capped,
    the_token_has_a_name,
    the_head_is_reached,
)


def nothing_is_done_in_vain(job: Manifest) -> Iterator[str]:
    spec = job["spec"]
    if spec.get("backoffLimit", 0):
        yield "backoffLimit: a refusal, a failed trial or a used-up budget would get new clusters"
    if spec.get("submissionMode") != "HTTPMode":
        yield "submissionMode: a stream of logs that breaks off would end the sweep; HTTPMode has none"
    spot = [group for group in spec["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu-spot"]
    if spot and "budget.no_progress_minutes" not in spec["entrypoint"]:
        yield "entrypoint: without budget.no_progress_minutes nodes may come and fail for a week"


def evictions_are_refused(manifests: list[Manifest]) -> Iterator[str]:
    budgets = [each["spec"] for each in manifests if each["kind"] == "PodDisruptionBudget"]
    ray = [each for each in budgets if each["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}]
    if not ray:
        yield "no PodDisruptionBudget keeps Ray's pods when a node is drained"
    if any(not isinstance(each.get("minAvailable"), int) for each in ray):
        yield "Ray's PodDisruptionBudget: only a number as minAvailable counts pods of a custom resource"


def records_are_copied(manifests: list[Manifest]) -> Iterator[str]:
    if not any(each["kind"] == "CronJob" for each in manifests):
        yield "MLflow's records are on one disk, and nothing copies them to the bucket"


def mlflow_bears_load(manifests: list[Manifest]) -> Iterator[str]:
    (pod,) = [each for each in pods(manifests) if each.where == "Deployment mlflow"]
    server = pod.spec["containers"][0]
    if server.get("readinessProbe", {}).get("timeoutSeconds", 1) < 5:
        yield "MLflow's readiness: a page of many trials takes seconds, and would take its address away"
    (tmp,) = [volume["emptyDir"] for volume in pod.spec["volumes"] if volume["name"] == "tmp"]
    if gibibytes(tmp["sizeLimit"]) < LARGEST_FILE:
        yield "MLflow's /tmp holds no large file on its way to the bucket"
    hosts = _environment(server).get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(",")
    if not {"mlflow.distillation.svc.cluster.local:5000", "localhost:*"} <= set(hosts):
        yield "MLFLOW_SERVER_ALLOWED_HOSTS: lacks the full name, or another port of a port-forward"


TRACKING_RULES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
    evictions_are_refused,
    records_are_copied,
    mlflow_bears_load,
)


def operation_errors(manifests: list[Manifest]) -> list[str]:
    """What these rules find, each with where."""
    errors = [f"{pod.where}: {error}" for pod in pods(manifests) for rule in POD_RULES for error in rule(pod)]
    kinds = {manifest["kind"] for manifest in manifests}
    if kinds & {"RayCluster", "RayJob"}:
        errors += [error for rule in CLUSTER_RULES for error in rule(ray_spec(manifests))]
    if "Namespace" in kinds:
        errors += [error for rule in TRACKING_RULES for error in rule(manifests)]
    jobs = [manifest for manifest in manifests if manifest["kind"] == "RayJob"]
    return [*errors, *(error for job in jobs for error in nothing_is_done_in_vain(job))]


def _environment(container: Manifest) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}
