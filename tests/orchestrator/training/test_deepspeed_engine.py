"""ZeRO-2's engine on one worker and on two: it does what one device does, our own clipping included."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

import workloads.training.step
from tests.support.process_group import start_workers
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.students.ema import AverageWeights
from workloads.training.step import PlainEngine

pytestmark = pytest.mark.heavy

TRAIN = PGSBSettings(batch_size=2, gradient_clip=0.5)
SHORT = 1e-6
"""A learning rate."""
LOUD, QUIET = 40.0, 0.01
"""Losses whose gradients are, and are not, longer than the clip."""


def network() -> nn.Module:
    """Of 26 weights, which two workers' parts are filled up for."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))


def loss(engine: workloads.training.step.Engine, rank: int, scale: float) -> Tensor:
    """Of one worker's row."""
    row = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))[rank]
    output: Tensor = engine(row.to(next(engine.module.parameters()).dtype))
    return scale * output.square().sum()


def _worker(rank: int, folder: str, workers: int) -> None:
    """Everything in one process, since each imports DeepSpeed."""
    from orchestrator.training.deepspeed_engine import prepare_process

    prepare_process()
    _steps(rank, folder, workers)
    _average(rank)


def _steps(rank: int, folder: str, workers: int) -> None:
    """Steps of long and short gradients, which the test compares, and of some that are not finite."""
    from orchestrator.training.deepspeed_engine import Engine

    engine = Engine(network(), 0.1, TRAIN)
    # Where there is nothing to average, nothing is done to a gradient when it comes.
    assert all(bool(p._post_accumulate_grad_hooks) == (workers > 1) for p in engine.module.parameters())
    for scale in (LOUD, QUIET):
        engine.step(loss(engine, rank, scale))
        torch.save(engine.module.state_dict(), f"{folder}/{scale}-{rank}")
    before = {key: value.clone() for key, value in engine.module.state_dict().items()}
    engine.step(loss(engine, rank, torch.nan if rank == workers - 1 else LOUD))
    assert all(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())
    engine.step(loss(engine, rank, QUIET))
    assert all(value.isfinite().all() for value in engine.module.state_dict().values())
    assert not any(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())


def _average(rank: int) -> None:
    """What is averaged has more digits than bfloat16.

    A step is so short that bfloat16 rounds it away, but not the weights that the engine keeps.
    """
    from orchestrator.training import deepspeed_engine as engine_room

    module = network().bfloat16()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    engine = engine_room.Engine(module, SHORT, TRAIN)
    average = AverageWeights(engine.weights, 0.5)
    engine.step(loss(engine, rank, LOUD))
    average.update(engine.weights, step=100)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    engine_room.PIECE = 5  # which does not divide a part
    parts: list[dict[str, Tensor]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, average.weights)
    torch.testing.assert_close(engine.part(parts), average.weights, rtol=0, atol=0)
    whole = engine.gather(average.weights)
    assert set(whole) == (set(before) if rank == 0 else set())
    for name, value in whole.items():
        # AdamW's first step is of one size, whatever the gradient.
        expected = torch.full_like(value, SHORT / 2)
        torch.testing.assert_close((value - before[name].float()).abs(), expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_it_steps_and_clips_as_one_device_and_leaves_out_what_is_not_finite(
    workers: int, tmp_path: Path
) -> None:
    """And what is averaged has more digits than bfloat16."""
    start_workers(workers, _worker, tmp_path, workers)()
    plain = PlainEngine(network(), 0.1, TRAIN)
    for scale in (LOUD, QUIET):
        plain.step(torch.stack([loss(plain, rank, scale) for rank in range(workers)]).mean())
        for rank in range(workers):
            found = torch.load(tmp_path / f"{scale}-{rank}")
            torch.testing.assert_close(found, plain.module.state_dict(), rtol=1e-4, atol=1e-6)
