"""The manifests as kustomize renders them, and the pods in them."""

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "infra/kubernetes"
CLOUDS = ("gke", "eks", "aks")
OVERLAYS = (*CLOUDS, "single", "single-gpu")
PARTS = ("tracking", "cluster", "sweep")
ALL = tuple(f"{overlay}/{part}" for overlay in OVERLAYS for part in PARTS)
COMPONENTS = (
    ("gke/cluster", "gcs-fault-tolerance"),
    ("gke/sweep", "kueue"),
    ("gke/sweep", "volcano"),
    ("gke/cluster", "monitoring"),
    ("eks/tracking", "object-store"),
)
"""Each optional component on a part that it is made for."""

Manifest = dict[str, Any]
Json = Any


@dataclass(frozen=True)
class Pod:
    """A pod that some manifest makes."""

    where: str
    """For people: kind, name and group."""
    group: str
    """Of Ray's pods: "head" or the worker group's name; else empty."""
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k folder` would apply."""
    assert shutil.which("kubectl"), (
        "kubectl is not installed, and the manifests cannot be rendered without it: install kubectl 1.29 or "
        "newer, which brings kustomize 5 (https://kubernetes.io/docs/tasks/tools/); no cluster is needed"
    )
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@cache
def _rendered(name: str) -> list[Manifest]:
    return kustomize(KUBERNETES / "overlays" / name)


def rendered(name: str) -> list[Manifest]:
    """A part of an overlay, as "gke/cluster"; one's own to break."""
    return copy.deepcopy(_rendered(name))


def with_component(part: str, component: str, folder: Path) -> list[Manifest]:
    """A part of an overlay with an optional component, by a kustomization in the empty `folder`."""
    above = os.path.relpath(KUBERNETES.resolve(), folder.resolve())
    file = {"resources": [f"{above}/overlays/{part}"], "components": [f"{above}/components/{component}"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(file))
    return kustomize(folder)


def ray_spec(manifests: list[Manifest]) -> Manifest:
    """The one RayCluster spec among them, a RayJob's or its own."""
    (spec,) = [spec for manifest in manifests if (spec := _ray_spec(manifest))]
    return spec


def _ray_spec(manifest: Manifest) -> Manifest | None:
    if manifest["kind"] == "RayJob":
        return dict(manifest["spec"].get("rayClusterSpec") or {}) or None
    return dict(manifest["spec"]) if manifest["kind"] == "RayCluster" else None


def pods(manifests: list[Manifest]) -> Iterator[Pod]:
    """Every pod that these make."""
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        spec = _ray_spec(manifest)
        if spec is not None:
            yield _pod(f"{name}, head", "head", spec["headGroupSpec"]["template"])
            for group in spec["workerGroupSpecs"]:
                yield _pod(f"{name}, group {group['groupName']}", group["groupName"], group["template"])
        own = manifest.get("spec", {})
        template = own.get("jobTemplate", {}).get("spec", own).get("template")
        if template is not None:
            yield _pod(name, "", template)


def _pod(where: str, group: str, template: Manifest) -> Pod:
    about = template.get("metadata", {})
    return Pod(where, group, about.get("labels", {}), about.get("annotations", {}), template["spec"])


REMOVED = object()


def changed(manifests: list[Manifest], kind: str, path: str, value: Json) -> list[Manifest]:
    """A copy in which the first of `kind` has `value` at `path`, keys parted by spaces."""
    manifests = copy.deepcopy(manifests)
    node: Json = next(manifest for manifest in manifests if manifest["kind"] == kind)
    *above, last = [int(key) if key.isdecimal() else key for key in path.split(" ")]
    for key in above:
        node = node[key] if isinstance(key, int) else node.setdefault(key, {})
    if value is REMOVED:
        del node[last]
    else:
        node[last] = value
    return manifests
