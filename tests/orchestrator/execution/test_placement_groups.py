"""What a training group holds after the death of the process that started it, on a real Ray."""

import time

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.execution.placement_groups import current, release

pytestmark = pytest.mark.cluster
CPUS = 0.5


class Worker:
    """Of a training group."""

    def group(self) -> PlacementGroup:
        return current()


class Trial:
    """Starts a group of one."""

    def start(self) -> PlacementGroup:
        group = placement_group([{"CPU": CPUS}])
        ray.get(group.ready())
        place = PlacementGroupSchedulingStrategy(group)
        worker = ray.remote(num_cpus=CPUS)(Worker)
        self.worker = worker.options(scheduling_strategy=place).remote()
        found: PlacementGroup = ray.get(self.worker.group.remote())
        return found


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def test_a_dead_trials_resources_are_released(local_ray: None) -> None:
    before = free_cpus()
    trial = ray.remote(num_cpus=0)(Trial).remote()
    bundles = ray.get(trial.start.remote())
    ray.kill(trial)
    time.sleep(3)
    assert free_cpus() == pytest.approx(before - CPUS), "Ray releases them by itself"
    release(bundles)
    deadline = time.monotonic() + 90
    while free_cpus() < before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    release(bundles)
