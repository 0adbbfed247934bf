"""Capacity: trials that fit on nodes and on groups that can grow, and refusal of those that never fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest import MonkeyPatch

from orchestrator.common.errors import UserError
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning import capacity
from orchestrator.planning.capacity import Capacity, NodeGroup, read_capacity
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.run import main

CPU = NodeGroup("cpu", 6, 0, 2, {})
SPOT = NodeGroup("gpu-spot", 40, 4, 4, {"gpu": "A100-40GB"})
ON_DEMAND = NodeGroup("gpu-on-demand", 40, 4, 1, {"gpu": "A100-40GB"})
L4 = NodeGroup("small", 8, 1, 16, {"gpu": "L4"})


def planned(*overrides: str) -> Plan:
    """Six trials of four workers with a GPU each, with these overrides."""
    return make_plan(load_sweep(Path("sweeps/backbones.yaml"), list(overrides)))


def test_trials_fill_the_largest_groups() -> None:
    assert Capacity([CPU, SPOT, ON_DEMAND]).max_concurrent_trials(planned()) == 5
    assert Capacity([CPU, SPOT]).max_concurrent_trials(planned("resources.workers=8")) == 2
    assert Capacity([CPU, SPOT]).max_concurrent_trials(planned("resources.max_concurrent_trials=3")) == 3
    assert Capacity([SPOT] * 3).max_concurrent_trials(planned()) == 6, "more than there are trials"


def test_workers_run_on_the_requested_gpu() -> None:
    assert Capacity([SPOT, L4]).node_labels(planned()) == {"gpu": "A100-40GB"}
    with pytest.raises(UserError, match=r"1 GPUs of H200.*small: 16 x 8 CPUs and 1 GPUs L4"):
        Capacity([SPOT, L4]).max_concurrent_trials(planned("resources.gpu=H200"))
    # Nodes without labels are accepted for any kind of GPU.
    bare = Capacity([NodeGroup("node", 40, 4, 1, {})])
    assert bare.max_concurrent_trials(planned()) == 1
    assert bare.node_labels(planned()) == {}


def test_worker_must_fit_on_one_node() -> None:
    with pytest.raises(UserError, match="cannot hold one such trial"):
        Capacity([SPOT]).max_concurrent_trials(planned("resources.cpus_per_worker=41"))
    with pytest.raises(UserError, match=r"no CPUs"):
        Capacity([NodeGroup("headgroup", 0, 0, 1, {})]).max_concurrent_trials(planned())


def test_cpus_are_shared_with_drivers() -> None:
    sweep = make_plan(load_sweep(Path("sweeps/miniature.yaml"), []))
    assert Capacity([NodeGroup("laptop", 2, 0, 1, {})]).max_concurrent_trials(sweep) == 2
    assert Capacity([NodeGroup("laptop", 1.6, 0, 1, {})]).max_concurrent_trials(sweep) == 1


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
