"""Node groups as Ray's autoscaler reads them from a manifest, and as Kubernetes reports them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest import MonkeyPatch

from orchestrator.common.errors import UserError
from orchestrator.execution import cluster_capacity as capacity
from orchestrator.execution.cluster_capacity import read_capacity
from orchestrator.run import main


def cluster(**group: Any) -> dict[str, Any]:
    pod = {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"cpu": "4", "memory": "8Gi"}}}]}}
    return {
        "kind": "RayCluster",
        "metadata": {"name": "train", "namespace": "ml"},
        "spec": {
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod},
            "workerGroupSpecs": [
                {
                    "groupName": "cpu",
                    "minReplicas": 0,
                    "maxReplicas": 3,
                    "rayStartParams": {},
                    "template": pod,
                    **group,
                }
            ],
        },
    }


def test_manifest_is_read_as_by_the_autoscaler(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump_all([{"kind": "Namespace"}, cluster(labels={"gpu": "L4"})]))
    found = read_capacity(file)
    assert str(found) == "cpu: 3 x 4 CPUs"
    assert found.groups[1].labels == {"gpu": "L4"}
    job = {"kind": "RayJob", "spec": {"rayClusterSpec": cluster()["spec"]}}
    file.write_text(yaml.safe_dump(job))
    assert str(read_capacity(file)) == "cpu: 3 x 4 CPUs"


def test_capacity_comes_from_kubernetes(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.CLUSTER_NAME, "train")
    monkeypatch.setattr(capacity, "_ray_cluster", lambda name: cluster() if name == "train" else None)
    assert str(capacity.connected_capacity()) == "cpu: 3 x 4 CPUs"


def test_unreachable_kubernetes_is_one_line(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capacity, "NAMESPACE_FILE", tmp_path / "none")
    with pytest.raises(
        UserError, match=r"^RayCluster train: cannot be read from Kubernetes .* --cluster FILE$"
    ):
        capacity._ray_cluster("train")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        ("kind: Pod\n", "holds no RayCluster"),
        ("- 1\n- 2\n", "holds no RayCluster"),
        ("a: [", "cannot be read"),
        ("kind: RayCluster\n", "holds no RayCluster"),
        ("kind: RayCluster\nspec: {headGroupSpec: 3}\n", "cannot read it"),
    ],
)
def test_file_without_a_cluster_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    file = tmp_path / "cluster.yaml"
    if content is not None:
        file.write_text(content)
    assert main(["sweeps/miniature.yaml", "--plan", "--cluster", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_plan_shows_what_the_cluster_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(cluster()))
    assert main(["sweeps/miniature.yaml", "--plan", "--cluster", str(file)]) == 0
    assert "6 run at once on cpu: 3 x 4 CPUs" in capsys.readouterr().out
    assert main(["sweeps/backbones.yaml", "--plan", "--cluster", str(file)]) == 2
    assert "the cluster cannot hold one such trial (cpu: 3 x 4 CPUs)" in capsys.readouterr().err
