"""Every overlay, and every optional component, is valid by every schema and holds to every rule."""

import importlib
import re
from pathlib import Path

import pytest

from tests.infra.manifests import (
    ALL,
    COMPONENTS,
    OVERLAYS,
    Manifest,
    kustomize,
    ray_spec,
    rendered,
    with_component,
)
from tests.infra.operator_checks import operator_errors
from tests.infra.rules import rule_errors
from tests.infra.validation import VERSIONS, schema_errors

NEWEST = VERSIONS[-1]
MEANT = {"kueue": ("RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S: not in minutes",)}
"""Errors of components that are meant: a pod that waits for quota is no sold-out spot."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_valid_by_the_schemas(name: str, version: str) -> None:
    assert schema_errors(rendered(name), version) == []


@pytest.mark.parametrize("name", ALL)
def test_passes_the_operator_and_the_rules(name: str) -> None:
    assert _errors(rendered(name)) == []


@pytest.mark.parametrize(("part", "component"), COMPONENTS, ids=lambda value: value)
def test_optional_components(part: str, component: str, tmp_path: Path) -> None:
    manifests = with_component(part, component, tmp_path)
    assert len(manifests) > len(rendered(part))
    assert [error for version in VERSIONS for error in schema_errors(manifests, version)] == []
    assert [error for error in _errors(manifests) if not error.startswith(MEANT.get(component, ("-",)))] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_sweeps_cluster_is_the_long_lived_one(overlay: str) -> None:
    assert ray_spec(rendered(f"{overlay}/sweep")) == ray_spec(rendered(f"{overlay}/cluster"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_parts_share_nothing_that_removing_one_would_take_from_another(overlay: str) -> None:
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in rendered(f"{overlay}/{part}")}
        for part in ("tracking", "cluster", "sweep")
    ]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_settings_are_ones_that_mlflow_and_ray_read() -> None:
    """A misspelt variable is no error to anybody."""
    names = _variables()
    assert len(names) > 10 and unread(names) == set()
    assert unread({"MLFLOW_SERVER_ALLOWED_HOST"}) == {"MLFLOW_SERVER_ALLOWED_HOST"}


def unread(names: set[str]) -> set[str]:
    """Those that no source of MLflow or Ray that reads settings has a word of."""
    mlflow, ray = (Path(str(importlib.import_module(name).__file__)).parent for name in ("mlflow", "ray"))
    sources = (
        mlflow / "environment_variables.py",
        mlflow / "cli/__init__.py",
        mlflow / "server/__init__.py",
        ray / "_private/ray_constants.py",
        ray / "autoscaler/_private/constants.py",
        ray / "autoscaler/v2/instance_manager/config.py",
        ray / "dashboard/modules/job/job_supervisor.py",
        ray / "dashboard/modules/job/common.py",
    )
    words = set(re.findall(r"\w+", "\n".join(source.read_text() for source in sources)))
    return names - words


def _variables() -> set[str]:
    found: set[str] = set()

    def visit(node: object) -> None:
        if isinstance(node, dict):
            found.update(entry["name"] for entry in node.get("env", []))
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit([rendered(name) for name in ALL])
    return {name for name in found if name.startswith(("MLFLOW_", "RAY_"))}


def test_without_kubectl_the_tests_fail_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match=r"kubectl is not installed, .* no cluster is needed"):
        kustomize(tmp_path)


def test_a_kustomization_that_is_wrong_fails_in_kustomizes_words(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]")
    with pytest.raises(AssertionError, match=r"nowhere\.yaml"):
        kustomize(tmp_path)


def _errors(manifests: list[Manifest]) -> list[str]:
    return [*rule_errors(manifests), *(error for each in manifests for error in operator_errors(each))]
