"""What trials do while machines cannot be had, or take long to come."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.infra.autoscaling.conftest import Stage, staged
from tests.infra.autoscaling.figure import keep
from tests.infra.autoscaling.machine import SOLD_OUT_SECONDS
from tests.support.chaos import verdict, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SLOW_SECONDS = 75
"""Ray Train waits for 60."""


def test_on_demand_takes_over_where_spot_is_sold_out(stage: Stage, note: Callable[..., None]) -> None:
    stage.cluster.sold_out.add("gpu-spot")
    marks = {"submitted": time.time()}
    launch = stage.submit("sold-out")
    stage.sweep.wait_for_step(1, launch, seconds=300)
    marks["first step"] = stage.sweep.steps()[0][0]
    assert launch.end() == 0, launch.output
    marks["last step"] = stage.sweep.steps()[-1][0]
    marks["zero pods"] = stage.wait_for_zero()

    verdict(stage.sweep, trials=1)
    states = {state for _, counts in stage.cluster.history for state in counts}
    assert {"gpu-spot pending", "gpu-on-demand"} <= states and "gpu-spot" not in states
    asked = stage.since(marks["submitted"], "gpu-spot pending")
    came = stage.since(asked, "gpu-on-demand")
    assert came - asked >= SOLD_OUT_SECONDS
    assert stage.most("gpu-on-demand") == 2, "one to draw with the teacher, one to encode prompts"
    note(
        sold_out_to_first_step=marks["first step"] - marks["submitted"],
        fell_back=came - asked,
        to_zero=marks["zero pods"] - marks["last step"],
    )
    keep("one trial, spot sold out", stage.cluster.history, marks)


def test_a_machine_may_take_longer_than_ray_train_waits(tmp_path: Path, note: Callable[..., None]) -> None:
    """Ray Train gives workers up that have no node after a minute, and asks again: no pod more, none less."""
    with staged(tmp_path, RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S="900") as stage:
        began = time.time()
        launch = stage.submit("slow", "resources.workers=4", "resources.cpus_per_worker=0.3")
        # Two pods come to prepare; those of the third and fourth worker are long in coming.
        wait_until(lambda: stage.cluster.counts().get("gpu-spot"), 120)
        stage.cluster.slow["gpu-spot"] = SLOW_SECONDS
        assert launch.end(400) == 0, launch.output
        words = "".join(log.read_text() for log in stage.cluster.folder.rglob("*train*controller*.log"))
        given_up = max(map(int, re.findall(r"Error count: (\d+)", words)), default=0)
        stage.wait_for_zero()
        verdict(stage.sweep, trials=1)
        assert (
            "startup timed out" in words and stage.most("gpu-spot") == 4 and stage.most("gpu-on-demand") == 0
        )
        note(given_up=given_up, slow_to_first_step=stage.sweep.steps()[0][0] - began)
