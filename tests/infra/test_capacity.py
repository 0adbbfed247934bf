"""What the shipped sweeps ask for finds room: in Ray's groups, and on the clouds' nodes."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import Plan, make_plan
from tests.infra.capacity import autoscaling_config, capacity_errors, plan_of_entrypoint
from tests.infra.manifests import (
    CLOUDS,
    OVERLAYS,
    REMOVED,
    REPOSITORY,
    Json,
    Manifest,
    changed,
    pods,
    ray_spec,
    rendered,
)
from tests.infra.pools import Pool, one_node_holds, pool_errors, pools
from workloads.scorers.hpsv2_package import CHECKPOINTS
from workloads.scorers.hpsv2_package import REPOSITORY as REPOSITORY_OF_HPSV2

SPOT = "spec workerGroupSpecs 1"
BOX = f"{SPOT} template spec containers 0"


@pytest.fixture(scope="module")
def pools_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda cloud: pools(cloud, tmp_path_factory.mktemp(cloud)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_groups_hold_the_overlays_own_sweep(overlay: str) -> None:
    (job,) = [each for each in rendered(f"{overlay}/sweep") if each["kind"] == "RayJob"]
    assert capacity_errors(plan_of_entrypoint(job), job["spec"]["rayClusterSpec"]) == []


@pytest.mark.parametrize("sweep", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_some_overlays_groups_hold_each_sweep_that_ships(sweep: Path) -> None:
    plan = make_plan(load_sweep(sweep, []))
    assert [] in [capacity_errors(plan, ray_spec(rendered(f"{overlay}/cluster"))) for overlay in OVERLAYS]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("resources.cpus_per_worker=41", "a trial's workers asks for"),
        ("infer.gpus=8", "a student that draws asks for"),
        ("resources.gpu=H100", "the sweep reckons with H100, and the groups have A100-40GB"),
    ],
)
def test_a_sweep_that_asks_for_too_much_is_seen(setting: str, words: str) -> None:
    errors = capacity_errors(_plan(setting), ray_spec(rendered("gke/cluster")))
    assert any(words in error for error in errors), errors


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{BOX} resources", {"limits": {"cpu": "40"}, "requests": {"cpu": "40"}}, "which no group holds"),
        (f"{BOX} resources limits cpu", "3", "which no group holds"),
        (f"{SPOT} maxReplicas", 0, "which no group holds"),
        (f"{SPOT} labels gpu", "L4", "groups have"),
        (f"{SPOT} labels gpu", "L4", "a worker needs 24.9 GiB, and of L4 20.2 can be used"),
    ],
)
def test_groups_that_are_too_small_are_seen(path: str, value: Json, words: str) -> None:
    manifests = rendered("gke/cluster")
    for index in "12":
        manifests = changed(manifests, "RayCluster", path.replace("Specs 1", f"Specs {index}"), value)
    errors = capacity_errors(_plan(), ray_spec(manifests))
    assert any(words in error for error in errors), errors


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_fetch_what_the_shipped_sweep_scores_with(cloud: str) -> None:
    """Scorers look into the hub's cache alone."""
    gpu = [pod for pod in pods(rendered(f"{cloud}/cluster")) if pod.group.startswith("gpu-")]
    infer = _plan().sweep.infer
    assert infer is not None and {scorer.name for scorer in infer.scorers} == {"hpsv2", "clip"}
    for pod in gpu:
        fetched = [container["command"][4:6] for container in pod.spec["initContainers"]]
        assert fetched == [
            [REPOSITORY_OF_HPSV2, CHECKPOINTS["v2.1"]],
            ["openai/clip-vit-large-patch14", "config.json"],
        ]


def _plan(*settings: str) -> Plan:
    return make_plan(load_sweep(REPOSITORY / "sweeps/backbones.yaml", list(settings)))


@pytest.mark.parametrize(
    ("ask", "count", "sold_out", "launched"),
    [
        ({"CPU": 4, "GPU": 1}, 4, (), {"gpu-spot": 1}),
        ({"CPU": 4, "GPU": 1}, 4, ("gpu-spot",), {"gpu-on-demand": 1}),
        ({"CPU": 4, "GPU": 1}, 17, (), {"gpu-spot": 4, "gpu-on-demand": 1}),
        ({"CPU": 0.15}, 3, (), {"cpu": 1}),
        ({"CPU": 4, "GPU": 8}, 1, (), {}),
    ],
)
def test_rays_own_scheduler_takes_the_group_that_is_meant(
    ask: dict[str, float], count: int, sold_out: tuple[str, ...], launched: dict[str, int]
) -> None:
    """A trial's workers take one spot node; on demand when spot is sold out or full; CPUs take no GPU."""
    manifests = rendered("gke/cluster")
    for group in (1, 2):
        manifests = changed(manifests, "RayCluster", f"spec workerGroupSpecs {group} maxReplicas", 4)
    read = autoscaling_config(ray_spec(manifests))
    config = AutoscalingConfig(read, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(ask)] * count),
        recoverable_resource_availabilities=dict.fromkeys(sold_out, 0.0),
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launched


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_pod_finds_its_node(cloud: str, pools_of: Any) -> None:
    resident = [*rendered(f"{cloud}/tracking"), *rendered(f"{cloud}/cluster")]
    assert pool_errors(resident, pools_of(cloud)) == []
    assert pool_errors(rendered(f"{cloud}/sweep"), pools_of(cloud)) == []
    assert one_node_holds(resident, pools_of(cloud))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_gpu_pools_begin_at_nothing(cloud: str, pools_of: Any) -> None:
    gpu: list[Pool] = [pool for pool in pools_of(cloud) if pool.gpus]
    assert {pool.spot for pool in gpu} == {True, False}
    assert [pool.fewest for pool in gpu] == [0] * len(gpu)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{SPOT} template spec tolerations", [], "no node pool has"),
        (f"{SPOT} template spec tolerations 1 value", "false", "no node pool has"),
        (f"{SPOT} template spec tolerations 1 effect", "NoExecute", "no node pool has"),
        (
            f"{SPOT} template spec nodeSelector cloud.google.com/gke-accelerator",
            "nvidia-l4",
            "no node pool has",
        ),
        (f"{SPOT} template spec nodeSelector", REMOVED, "dearer or less sure"),
        (f"{BOX} resources requests cpu", "47", "no node pool has"),
        (f"{BOX} resources requests memory", "320Gi", "no node pool has"),
        (f"{BOX} resources requests nvidia.com/gpu", 8, "no node pool has"),
        (f"{SPOT} maxReplicas", 9, "above what its pools can grow to"),
        (
            "spec headGroupSpec template spec tolerations",
            [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "dearer",
        ),
    ],
)
def test_pods_without_their_node_are_seen(path: str, value: Json, words: str, pools_of: Any) -> None:
    errors = pool_errors(changed(rendered("gke/cluster"), "RayCluster", path, value), pools_of("gke"))
    assert any(words in error for error in errors), errors


def test_a_head_that_needs_a_second_node_is_seen(pools_of: Any) -> None:
    manifests: list[Manifest] = [*rendered("gke/tracking"), *rendered("gke/cluster")]
    path = "spec headGroupSpec template spec containers 0 resources requests memory"
    assert not one_node_holds(changed(manifests, "RayCluster", path, "25Gi"), pools_of("gke"))


def test_the_clouds_scripts_stop_at_a_setting_that_is_missing() -> None:
    for cloud in ("gke", "aks"):
        script = REPOSITORY / f"infra/kubernetes/overlays/{cloud}/pools.sh"
        done = subprocess.run(["bash", str(script)], env={"PATH": os.defpath}, capture_output=True, text=True)
        assert done.returncode and ("PROJECT" in done.stderr or "GROUP" in done.stderr)
