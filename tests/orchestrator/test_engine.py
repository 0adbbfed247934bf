"""ZeRO-2's engine on one worker and on two: it does what one device does, our own clipping included."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.orchestrator.workers import start_workers
from workloads.settings import TrainSettings
from workloads.step import PlainEngine

TRAIN = TrainSettings(batch_size=2, gradient_clip=0.5)
LOUD, QUIET = 40.0, 0.01
"""Losses whose gradients are, and are not, longer than the clip."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))


def loss(engine: nn.Module, rank: int, scale: float) -> Tensor:
    """Of one worker's row."""
    row = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))[rank]
    output: Tensor = engine(row)
    return scale * output.square().sum()


def _worker(rank: int, folder: str, workers: int) -> None:
    from orchestrator.engine import Engine, prepare_process

    prepare_process()
    engine = Engine(network(), 0.1, TRAIN)
    for scale in (LOUD, QUIET):
        engine.step(loss(engine, rank, scale))  # type: ignore[arg-type]
        torch.save(engine.module.state_dict(), f"{folder}/{scale}-{rank}")
    before = {key: value.clone() for key, value in engine.module.state_dict().items()}
    engine.step(loss(engine, rank, torch.nan if rank == workers - 1 else LOUD))  # type: ignore[arg-type]
    assert all(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())
    engine.step(loss(engine, rank, QUIET))  # type: ignore[arg-type]
    assert all(value.isfinite().all() for value in engine.module.state_dict().values())
    assert not any(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())


@pytest.mark.parametrize("workers", [1, 2])
def test_it_steps_and_clips_as_one_device_and_leaves_out_what_is_not_finite(
    workers: int, tmp_path: Path
) -> None:
    start_workers(workers, _worker, tmp_path, workers)()
    plain = PlainEngine(network(), 0.1, TRAIN)
    for scale in (LOUD, QUIET):
        plain.step(torch.stack([loss(plain, rank, scale) for rank in range(workers)]).mean())  # type: ignore[arg-type]
        for rank in range(workers):
            found = torch.load(tmp_path / f"{scale}-{rank}")
            torch.testing.assert_close(found, plain.module.state_dict(), rtol=1e-4, atol=1e-6)
