"""The clouds' own files: read as strictly as their readers do, and right for an account that is new."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import KUBERNETES, REPOSITORY, Manifest
from tests.infra.pools import recorded

EKSCTL = (KUBERNETES / "overlays/eks/cluster.yaml").read_text()
SCRIPTS = sorted({*REPOSITORY.glob("infra/**/*.sh"), REPOSITORY / ".ci/run"})
COMMANDS = {"gke": "gcloud", "aks": "az"}


class StrictLoader(yaml.SafeLoader):
    """As eksctl reads (sigs.k8s.io/yaml.UnmarshalStrict): a key twice is an error, also by way of `<<`."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice or "<<" in keys:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(twice) or '<<'} is refused")
        return super().construct_mapping(node, deep)


def eksctl_errors(text: str) -> list[str]:
    try:
        file = yaml.load(text, StrictLoader)
    except yaml.YAMLError as error:
        return [str(error)]
    return [error for group in file["managedNodeGroups"] for error in _group_errors(group, file)]


def _group_errors(group: Manifest, file: Manifest) -> list[str]:
    name, errors = group["name"], []
    labels = group.get("labels", {})
    if group["minSize"] and len(group.get("availabilityZones", [])) != 1:
        errors.append(f"{name}: its pods' disks are in one zone: availabilityZones of one")
    if not set(group.get("availabilityZones", [])) <= set(file["availabilityZones"]):
        errors.append(f"{name}: a zone that the cluster has not")
    if group.get("taints") and not labels.get("k8s.amazonaws.com/accelerator"):
        errors.append(f"{name}: without k8s.amazonaws.com/accelerator the autoscaler orders several nodes")
    if group.get("taints") and labels.get("nvidia.com/gpu.present") != "true":
        errors.append(f"{name}: without nvidia.com/gpu.present the device plugin runs nowhere")
    if file.get("vpc", {}).get("nat", {}).get("gateway") != "Disable":
        errors.append(f"{name}: a NAT gateway is paid for, and nodes are public")
    return errors


def test_eksctl_reads_the_file() -> None:
    assert eksctl_errors(EKSCTL) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  - name: gpu-on-demand\n", "  - name: gpu-on-demand\n    name: again\n", "name is refused"),
        ("metadata: {name: distillation", "metadata: {<<: {}, name: distillation", "<< is refused"),
        ("k8s.amazonaws.com/accelerator: nvidia-l40s, ", "", "orders several nodes"),
        (', nvidia.com/gpu.present: "true"', "", "device plugin runs nowhere"),
        ("    availabilityZones: [us-east-2a]\n", "", "disks are in one zone"),
        ("    availabilityZones: [us-east-2a]\n", "    availabilityZones: [eu-west-1a]\n", "cluster has not"),
        ("vpc: {nat: {gateway: Disable}}\n", "", "NAT gateway"),
    ],
)
def test_a_file_that_eksctl_refuses_or_that_costs_is_seen(old: str, new: str, words: str) -> None:
    assert old in EKSCTL
    assert any(words in error for error in eksctl_errors(EKSCTL.replace(old, new)))


def test_a_merge_with_additions_is_refused() -> None:
    """As this file had it: eksctl read `name`, `spot` and `labels` twice."""
    text = "a: &a {name: x, spot: true}\nb:\n  <<: *a\n  spot: false\n"
    with pytest.raises(yaml.YAMLError, match=r"line 3: << is refused"):
        yaml.load(text, StrictLoader)


def shellcheck(path: Path) -> str:
    command = shutil.which("shellcheck") or str(Path(sys.executable).parent / "shellcheck")
    return subprocess.run([command, "--norc", path], capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_scripts_are_right(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    assert shellcheck(path) == ""


def test_a_script_that_is_wrong_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("#!/bin/bash\nrm $1\n")
    assert "SC2086" in shellcheck(tmp_path / "x.sh")


def calls(cloud: str, folder: Path, missing: bool = True) -> list[str]:
    return [" ".join(words) for words in recorded(cloud, COMMANDS[cloud], folder, missing)]


def script_errors(cloud: str, made: list[str]) -> list[str]:
    """What a new account refuses, or a sweep of days would not survive."""
    text = "\n".join(made)
    pools = [
        call for call in made if re.search(r"(clusters|node-pools) create|aks (create|nodepool add)", call)
    ]
    wanted: dict[str, tuple[bool, ...]] = {
        "gke": (
            all("--service-account distillation-nodes@" in call for call in pools),
            "roles/artifactregistry.reader" in text and "roles/container.defaultNodeServiceAccount" in text,
            all("--enable-image-streaming" in call for call in pools),
            all("--system-config-from-file" in call for call in pools if "--accelerator" in call),
            _window_hours(text) >= 48,
        ),
        "aks": (
            "storage container-rm create" in text and "storage fs" not in text,
            "--sku Basic" not in text,
            "--node-os-upgrade-channel None" in text,
            "--assignee-object-id" in text and "--assignee-principal-type ServicePrincipal" in text,
            "provider register --namespace Microsoft.ContainerService" in text,
        ),
    }
    says = {
        "gke": (
            "nodes run as the default account, which may pull no image",
            "the nodes' account lacks a role",
            "a node pulls ten gigabytes before it works",
            "pods of spot nodes have 15 s for a checkpoint",
            "no maintenance window, or one that GKE refuses: 48 hours in 32 days",
        ),
        "aks": (
            "a container by the data plane, for which an owner has no right",
            "a registry of 10 GB",
            "every node is made anew each week",
            "the new identity is looked up before it is known",
            "a provider that is not registered",
        ),
    }
    return [line for line, good in zip(says[cloud], wanted[cloud], strict=True) if not good]


def _window_hours(text: str) -> float:
    """Hours of maintenance windows in 32 days, by the options of gcloud."""
    found = re.search(
        r"window-start \S+T(\d\d):\S+ --maintenance-window-end \S+T(\d\d):\S+ .*BYDAY=([A-Z,]+)", text
    )
    if found is None:
        return 0
    return (int(found[2]) - int(found[1])) * 4 * len(found[3].split(","))


@pytest.mark.parametrize("cloud", COMMANDS)
def test_a_new_account_gets_all_that_it_needs(cloud: str, tmp_path: Path) -> None:
    assert script_errors(cloud, calls(cloud, tmp_path)) == []


@pytest.mark.parametrize(
    ("cloud", "change"),
    [
        ("gke", lambda call: re.sub(r" --service-account \S+", "", call)),
        ("gke", lambda call: call.replace("roles/artifactregistry.reader", "roles/viewer")),
        ("gke", lambda call: call.replace(" --enable-image-streaming", "")),
        ("gke", lambda call: re.sub(r" --system-config-from-file \S+", "", call)),
        ("gke", lambda call: call.replace("BYDAY=SA,SU", "BYDAY=SA").replace("T12:", "T08:")),
        ("aks", lambda call: call.replace("container-rm create", "fs create --auth-mode login")),
        ("aks", lambda call: call.replace("--sku Standard", "--sku Basic")),
        ("aks", lambda call: call.replace("--node-os-upgrade-channel None", "")),
        ("aks", lambda call: call.replace("--assignee-object-id", "--assignee")),
        ("aks", lambda call: call.replace("provider register", "provider show")),
    ],
)
def test_a_script_that_lacks_one_is_seen(cloud: str, change: Callable[[str], str], tmp_path: Path) -> None:
    assert len(script_errors(cloud, [change(call) for call in calls(cloud, tmp_path)])) == 1


@pytest.mark.parametrize("cloud", COMMANDS)
def test_what_is_there_is_not_made_again(cloud: str, tmp_path: Path) -> None:
    """A second run, after one that broke off, ends at no bucket or pool that is there."""
    made = calls(cloud, tmp_path, missing=False)
    again = r"(buckets|repositories|service-accounts|clusters|node-pools|acr|account|aks) create|nodepool add"
    assert made and not [call for call in made if re.search(again, call)]
