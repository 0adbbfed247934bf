"""GPU-hours: counted while trials hold GPUs, kept between launches, limited by the budget."""

from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator.common.errors import UnfinishedError
from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.progress import progress_line
from orchestrator.results.record import Status, TrialRecord


class Clock:
    """A clock that the test sets, in seconds since 1970."""

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


def test_gpus_count_until_the_trial_ends(store: Store, clock: Clock) -> None:
    budget = GpuHourBudget(planned("budget.price_per_gpu_hour=2"), store)
    with patch("orchestrator.results.budget.time", clock):
        budget.start("a", gpus=4, since=clock.now - 900)
        budget.start("a", gpus=4)  # its group was started again
        clock.now += 900
        assert budget.gpu_hours == 2
        budget.end("a")
        budget.start("b", gpus=1)
        clock.now += 3600
        assert budget.gpu_hours == 3 and budget.cost == 6
        assert budget.summary == "3.00 GPU-hours, cost 6.00"
        budget.end("c")
        budget.check()


def test_the_next_launch_continues_the_count(store: Store, clock: Clock) -> None:
    plan = planned("budget.max_gpu_hours=3")
    with patch("orchestrator.results.budget.time", clock):
        budget = GpuHourBudget(plan, store)
        budget.start("a", gpus=2)
        clock.now += 3600
        budget.save()
        budget = GpuHourBudget(plan, store)
        assert budget.gpu_hours == 2 and not budget.used_up
        budget.start("a", gpus=2)
        clock.now += 1800
        assert budget.used_up
        with pytest.raises(UnfinishedError, match=r"3\.00 of 3 GPU-hours: budget\.max_gpu_hours"):
            budget.check()


def test_a_share_of_a_gpu_counts_as_a_share(store: Store, clock: Clock) -> None:
    plan = planned("resources.workers=1", "resources.gpus_per_worker=0.25", "budget.price_per_gpu_hour=2")
    with patch("orchestrator.results.budget.time", clock):
        budget = GpuHourBudget(plan, store)
        for trial in "abcd":
            budget.start(trial, plan.gpus_per_trial)
        clock.now += 3600
        assert budget.gpu_hours == 1 and budget.summary == "1.00 GPU-hours, cost 2.00"
        budget.save()
    assert store.read_json("backbones/spent.json") == {"gpu_hours": 1}


def test_a_sweep_on_cpus_counts_nothing(store: Store) -> None:
    budget = GpuHourBudget(make_plan(load_sweep(Path("sweeps/miniature.yaml"), [])), store)
    budget.start("a", gpus=0)
    budget.save()
    assert budget.summary == "" and budget.gpu_hours == 0 and not store.exists("miniature/spent.json")


def test_interrupted_trials_are_not_done() -> None:
    (trial, *_) = planned().trials
    statuses: tuple[Status, ...] = ("finished", "collapsed", "failed", "interrupted", "waiting")
    line = progress_line([TrialRecord(trial, "run", status) for status in statuses])
    assert line == "3 of 5 trials done, 0 running, 1 waiting"
