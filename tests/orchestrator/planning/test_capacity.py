"""Capacity: trials that fit on nodes and on groups that can grow, and refusal of those that never fit."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.capacity import Capacity, NodeGroup
from orchestrator.planning.plan import Plan, make_plan

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


def test_a_trials_gpus_lie_on_one_node_where_each_node_holds_it() -> None:
    """Else a later trial may get three GPUs of a node and one of another, and talk over the network."""
    assert Capacity([CPU, SPOT, ON_DEMAND]).every_node_holds_a_trial(planned())
    assert not Capacity([SPOT, L4]).every_node_holds_a_trial(planned("resources.workers=8"))
    assert not Capacity([NodeGroup("two", 40, 2, 8, {})]).every_node_holds_a_trial(planned())
    assert not Capacity([CPU]).every_node_holds_a_trial(
        make_plan(load_sweep(Path("sweeps/miniature.yaml"), []))
    )
    six = NodeGroup("six", 48, 6, 2, {})
    assert Capacity([six]).max_concurrent_trials(planned()) == 2, "and two GPUs of each node stay free"


def test_cpus_are_shared_with_drivers() -> None:
    sweep = make_plan(load_sweep(Path("sweeps/miniature.yaml"), []))
    assert Capacity([NodeGroup("laptop", 2, 0, 1, {})]).max_concurrent_trials(sweep) == 2
    assert Capacity([NodeGroup("laptop", 1.6, 0, 1, {})]).max_concurrent_trials(sweep) == 1


def test_shares_of_a_gpu_fill_each_gpu() -> None:
    def share(value: float, *more: str) -> Plan:
        settings = [
            f"resources.gpus_per_worker={value}",
            "resources.workers=1",
            "resources.cpus_per_worker=0.7",
        ]
        small = "backbones=[{name: x, model: miniature/pixart}]"
        seeds = f"train.seed={{values: {[*range(40)]}}}"
        return planned(*settings, small, seeds, *more)

    assert Capacity([SPOT]).max_concurrent_trials(share(0.5)) == 32
    # A node holds twelve of the thirds of its four GPUs, and no thirteenth in the rest of all four.
    assert NodeGroup("roomy", 400, 4, 1, {}).workers_of_a_node(share(0.3333)) == 12
    assert NodeGroup("roomy", 400, 1, 1, {}).workers_of_a_node(share(0.25)) == 4
    assert Capacity([NodeGroup("few", 4, 4, 1, {})]).max_concurrent_trials(share(0.25)) == 4, "by its CPUs"
    assert Capacity([SPOT]).every_node_holds_a_trial(share(0.25))
    with pytest.raises(UserError, match=r"1 workers of .* CPUs and 0.25 GPUs of H200, "):
        Capacity([SPOT]).max_concurrent_trials(share(0.25, "resources.gpu=H200"))
