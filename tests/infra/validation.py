"""Manifests against the schemas of Kubernetes and KubeRay, with no key too many."""

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
from jsonschema import Draft202012Validator

from tests.infra.manifests import Json, Manifest, pods

VERSIONS = ("1.35", "1.36", "1.37")
"""Of Kubernetes: those that the clouds offered when this was written."""
KUBERAY = ("RayCluster", "RayJob")
UNKNOWN = ("ResourceFlavor", "ClusterQueue", "LocalQueue", "Queue", "PodMonitor", "PrometheusRule")
"""Of Kueue, Volcano and the Prometheus operator, whose schemas are not here: read against documentation."""
SCHEMAS = Path(__file__).parent / "schemas"


def schema_errors(manifests: list[Manifest], version: str) -> list[str]:
    """What Kubernetes of this version, or KubeRay 1.7, would refuse, or drop without a word."""
    errors = [error for manifest in manifests for error in _errors(manifest, version)]
    for pod in pods(manifests):
        wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod.spec}
        errors += [f"{pod.where}: {error}" for error in _kubernetes_errors(wrapped, version)]
    return errors


def _errors(manifest: Manifest, version: str) -> list[str]:
    if manifest["kind"] in UNKNOWN:
        return []
    if manifest["kind"] in KUBERAY:
        return list(kuberay_errors(manifest))
    return _kubernetes_errors(manifest, version)


def _kubernetes_errors(manifest: Manifest, version: str) -> list[str]:
    return _errors_of_text(json.dumps(manifest), version)


@cache
def _errors_of_text(manifest: str, version: str) -> list[str]:
    """Overlays have most of their objects in common."""
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def kuberay_errors(manifest: Manifest) -> Iterator[str]:
    """Of a RayCluster or RayJob; pod templates are in KubeRay's schema too."""
    for error in _validator(manifest["kind"]).iter_errors(manifest):
        yield f"{manifest['kind']} {error.json_path}: {error.message}"


@cache
def _validator(kind: str) -> Draft202012Validator:
    packed = (SCHEMAS / f"{kind.lower()}.v1.openapi.json.gz").read_bytes()
    schema = json.loads(gzip.decompress(packed))
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(strict(schema))


def strict(schema: Json) -> Json:
    """An OpenAPI schema as JSON Schema that forbids keys it does not name, as the API server would."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    own = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        own["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            own.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        return {"anyOf": [own, {"type": "null"}]}
    return own
