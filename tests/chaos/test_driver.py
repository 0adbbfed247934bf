"""What happens to the command itself: killed, started twice, told to end; and to its checkpoints."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.chaos import (
    ONE_WORKER,
    Sweep,
    hold,
    ray_processes,
    recovery,
    verdict,
    wait_until,
    wait_until_none,
)

pytestmark = [pytest.mark.chaos, pytest.mark.cluster]


def checkpoints(sweep: Sweep) -> list[Path]:
    return sorted(sweep.storage.glob("artifacts/*/*/checkpoints/step-????????"))


def test_the_driver_is_killed_started_twice_told_to_end_and_its_checkpoints_are_damaged(
    unbroken: Sweep, prepared: Callable[..., Sweep], note: Callable[..., None]
) -> None:
    """Three launches: killed; told to end; to its good end, with another number of workers."""
    sweep = prepared(faults=[hold(10), hold(14)])
    sweep.environment = {"CHAOS_PAUSE": "0.5"}
    first = sweep.launch()
    sweep.wait_for_step(9, first)
    refused_while_it_runs(sweep, first.process.pid)
    wait_until(lambda: len(checkpoints(sweep)) > 1, 120)
    first.kill()
    wait_until_none(lambda: ray_processes(without="Agent "), 60)

    damaged = alter(checkpoints(sweep)[-1])
    began = time.time()
    second = sweep.launch()
    sweep.wait_for_step(13, second, since=began)
    assert f"{damaged}: student-0001.safetensors has changed; set aside as *.damaged" in second.output
    assert damaged.with_name(damaged.name + ".damaged").exists()
    seconds, again = recovery(sweep, began)
    note("driver killed and newest checkpoint altered", seconds, again)
    assert again < 8, "more than the checkpoint that was altered, and an interval"

    asked = time.time()
    second.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "1 trainings write a checkpoint" in second.output, 120)
    sweep.release(14)
    assert second.end() == 130, second.output
    note("driver told to end (SIGTERM), until it has", time.time() - asked, 0)
    done = max(step for _, step, _, _ in sweep.steps())
    assert checkpoints(sweep)[-1].name == f"step-{done:08d}", "no checkpoint of the last step"
    assert_same_files(checkpoints(sweep), unbroken, "step-00000012")

    torn = checkpoints(sweep)[-1].with_name(f"step-{done + 4:08d}")
    torn.mkdir()
    (torn / "manifest.json").write_text('{"progress": {"step": ')
    sweep.environment = {}
    output = sweep.run(*ONE_WORKER)
    assert f"{torn}: manifest.json cannot be read" in output and f"resumes after step {done}" in output
    verdict(sweep, trials=1, extra_steps=True)
    after = [step for at, step, rank, _ in sweep.steps() if rank == 0 and at > asked and step > done]
    assert after == list(range(done + 1, 25))
    ours, theirs = sweep.average(), unbroken.average()
    # AdamW moves a weight by up to 1e-4 a step; sums in another order stay far below that.
    assert 0 < (ours - theirs).abs().max() < 2e-4


def refused_while_it_runs(sweep: Sweep, pid: int) -> None:
    """A second launch says who holds the sweep."""
    second = sweep.launch()
    assert second.end() == 2
    assert f"by root, process {pid} on" in second.output
    assert second.output.count("\n") == 1, second.output


def alter(checkpoint: Path) -> Path:
    """Flips one bit of its weights."""
    weights = checkpoint / "student-0001.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return checkpoint


def assert_same_files(ours: list[Path], unbroken: Sweep, name: str) -> None:
    """The checkpoint `name` is that of the unbroken training, bit for bit."""
    (mine,) = (path for path in ours if path.name == name)
    (theirs,) = (path for path in checkpoints(unbroken) if path.name == name)
    for file in sorted(mine.glob("*.safetensors")):
        one, other = load_file(file), load_file(theirs / file.name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), file
