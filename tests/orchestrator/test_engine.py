"""ZeRO-2's engine on two workers: its clipping, which is ours, is that of one device."""

import os
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

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


def _worker(rank: int, folder: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    from orchestrator.engine import Engine, prepare_process

    prepare_process()
    engine = Engine(network(), 0.1, TRAIN)
    for scale in (LOUD, QUIET):
        engine.step(loss(engine, rank, scale))  # type: ignore[arg-type]
        torch.save(engine.module.state_dict(), f"{folder}/{scale}-{rank}")
    before = {key: value.clone() for key, value in engine.module.state_dict().items()}
    engine.step(loss(engine, rank, torch.nan if rank else LOUD))  # type: ignore[arg-type]
    assert all(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())
    engine.step(loss(engine, rank, QUIET))  # type: ignore[arg-type]
    assert all(value.isfinite().all() for value in engine.module.state_dict().values())
    assert not any(torch.equal(before[key], value) for key, value in engine.module.state_dict().items())
    distributed.destroy_process_group()


def test_two_workers_clip_as_one_device_does_and_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    spawn(_worker, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    plain = PlainEngine(network(), 0.1, TRAIN)
    for scale in (LOUD, QUIET):
        plain.step(torch.stack([loss(plain, rank, scale) for rank in (0, 1)]).mean())  # type: ignore[arg-type]
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{scale}-{rank}")
            torch.testing.assert_close(found, plain.module.state_dict(), rtol=1e-4, atol=1e-6)
