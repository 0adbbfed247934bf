"""Whether a cluster's groups can hold what a sweep asks for: the project's planner against Ray's reading."""

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from orchestrator.config.gpu_specs import GPUS
from orchestrator.config.sweep_file import load_sweep
from orchestrator.execution.preparation import REFERENCE_CPUS
from orchestrator.planning.estimate import gib, worker_needs
from orchestrator.planning.plan import DRIVER_CPUS, Plan, make_plan
from orchestrator.run import _parser
from tests.infra.manifests import REPOSITORY, Manifest

IN_IMAGE = Path("/app")
"""Where the image keeps `sweeps/`."""
Resources = dict[str, float]


def plan_of_entrypoint(job: Manifest) -> Plan:
    """The plan of the sweep that a RayJob checks and runs, by the words that its shell hands to both."""
    given, commands = job["spec"]["entrypoint"].split("\npython", 1)
    assert commands == ' -m orchestrator.doctor "$@" && python -m orchestrator.run "$@"', commands
    shown = subprocess.run(
        ["sh", "-c", f"{given}\nprintf '%s\\n' \"$@\""], capture_output=True, text=True, check=True
    )
    options = _parser().parse_args(shown.stdout.splitlines())
    return make_plan(load_sweep(REPOSITORY / options.sweep.relative_to(IN_IMAGE), options.overrides))


def autoscaling_config(ray_spec: Manifest) -> dict[str, Any]:
    """What Ray's autoscaler makes of a RayCluster."""
    cluster = {"metadata": {"name": "train", "namespace": "distillation"}, "spec": ray_spec}
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)
    return config


def capacity_errors(plan: Plan, ray_spec: Manifest) -> list[str]:
    """What the sweep asks for that no group gives; a trial on two groups of unlike nodes would be slow."""
    config = autoscaling_config(ray_spec)
    groups = {name: kind for name, kind in config["available_node_types"].items() if kind["max_workers"]}
    errors = [
        f"{what} asks for {each} {count} times, which no group holds: {_summary(groups)}"
        for what, each, count in _bundles(plan)
        if not any(_most(kind, each) >= count for kind in groups.values())
    ]
    return [*errors, *_gpu_errors(plan, ray_spec)]


def _bundles(plan: Plan) -> Iterator[tuple[str, Resources, int]]:
    """Who asks for what, and how often at once."""
    resources, gpu = plan.sweep.resources, 1 if plan.gpus_per_trial else 0
    worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    yield "a trial's workers", worker, resources.workers
    yield "a trial's driver", {"CPU": DRIVER_CPUS, "GPU": 0}, 1
    yield "a teacher that draws", {"CPU": REFERENCE_CPUS, "GPU": gpu}, 1
    if plan.infer is not None:
        yield "a student that draws", {"CPU": DRIVER_CPUS, "GPU": plan.infer.infer.gpus}, 1


def _most(kind: dict[str, Any], bundle: Resources) -> int:
    """How many such bundles all nodes of a group hold."""
    have = kind["resources"]
    per_node: int = min(
        math.floor(have.get(name, 0) / asked + 1e-6) for name, asked in bundle.items() if asked
    )
    return per_node * int(kind["max_workers"])


def _summary(groups: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{name}: {kind['max_workers']} of {kind['resources'].get('CPU', 0)} CPUs and "
        f"{kind['resources'].get('GPU', 0)} GPUs"
        for name, kind in groups.items()
    )


def _gpu_errors(plan: Plan, ray_spec: Manifest) -> Iterator[str]:
    """Memory of the groups' own kind of GPU, and whether the sweep means that kind."""
    if not plan.gpus_per_trial:
        return
    kinds = {
        group["labels"]["gpu"] for group in ray_spec["workerGroupSpecs"] if "gpu" in group.get("labels", {})
    }
    if kinds != {plan.sweep.resources.gpu}:
        have = ", ".join(kinds) or "none"
        yield f"the sweep reckons with {plan.sweep.resources.gpu}, and the groups have {have}"
    for kind in kinds:
        needs = max(needs.bytes for trial in plan.trials if (needs := worker_needs(plan, trial)))
        usable = GPUS[kind].usable_bytes(plan.sweep.resources.gpus_per_worker)
        if needs > usable:
            yield f"a worker needs {gib(needs)} GiB, and of {kind} {gib(usable)} can be used"
