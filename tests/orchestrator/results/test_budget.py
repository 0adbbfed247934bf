"""GPU-hours: counted while they are held, kept from launch to launch, and an end when there are no more."""

from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator.common.errors import UnfinishedError
from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Entry, Status
from orchestrator.results.progress import progress_line


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def planned(*overrides: str) -> Plan:
    return make_plan(load_sweep(Path("sweeps/backbones.yaml"), ["budget={}", *overrides]))


def test_what_is_held_counts_until_it_is_given_back(store: Store, clock: Clock) -> None:
    meter = GpuHourBudget(planned("budget.price_per_gpu_hour=2"), store)
    with patch("orchestrator.results.budget.time", clock):
        meter.begins("a", gpus=4, since=clock.now - 900)
        meter.begins("a", gpus=4)  # its group was started again
        clock.now += 900
        assert meter.gpu_hours == 2
        meter.ends("a")
        meter.begins("b", gpus=1)
        clock.now += 3600
        assert meter.gpu_hours == 3 and meter.cost == 6
        assert meter.words == "3.00 GPU-hours, cost 6.00"
        meter.ends("c")
        meter.check()


def test_the_next_launch_goes_on_counting(store: Store, clock: Clock) -> None:
    plan = planned("budget.max_gpu_hours=3")
    with patch("orchestrator.results.budget.time", clock):
        meter = GpuHourBudget(plan, store)
        meter.begins("a", gpus=2)
        clock.now += 3600
        meter.keep()
        meter = GpuHourBudget(plan, store)
        assert meter.gpu_hours == 2 and not meter.used_up
        meter.begins("a", gpus=2)
        clock.now += 1800
        assert meter.used_up
        with pytest.raises(UnfinishedError, match=r"3\.00 of 3 GPU-hours: budget\.max_gpu_hours"):
            meter.check()


def test_a_sweep_on_cpus_has_nothing_to_count(store: Store) -> None:
    meter = GpuHourBudget(make_plan(load_sweep(Path("sweeps/miniature.yaml"), [])), store)
    meter.begins("a", gpus=0)
    meter.keep()
    assert meter.words == "" and meter.gpu_hours == 0 and not store.exists("miniature/spent.json")


def test_what_was_interrupted_does_not_count_as_done() -> None:
    (trial, *_) = planned().trials
    statuses: tuple[Status, ...] = ("finished", "collapsed", "failed", "interrupted", "waiting")
    line = progress_line([Entry(trial, "run", status) for status in statuses])
    assert line == "3 of 5 trials done, 0 running, 1 waiting"
