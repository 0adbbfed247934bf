"""Objectives under DeepSpeed: two workers train what one device trains, and a checkpoint goes on from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from orchestrator.training.checkpoint.manifest import MANIFEST, Manifest, Progress, verify
from orchestrator.training.checkpoint.tensors import load, write_part
from tests.support.process_group import start_workers
from tests.workloads.objectives.test_catalogue import ARMS, Training
from workloads.miniature.world import captions
from workloads.objectives.base import STUDENT
from workloads.students.ema import AverageWeights
from workloads.training.step import train_step

pytestmark = pytest.mark.heavy

ROWS, STEPS = 4, 3
TRAINED = ("swiftbrush_v2", "boot", "two_steps", "reads_scale", "regression", "one_batch_gan")


def steps(training: Training, rows: slice, first: int, last: int) -> None:
    """Steps number `first` to `last` of a global batch's `rows`."""
    for step in range(first, last + 1):
        texts = captions(ROWS, seed=step)[rows]
        draws = training.objective.draw(ROWS, torch.Generator().manual_seed(step))[rows]
        train_step(training.objective, training.engines, training.batch(texts, rows.start), draws, step)
        training.average.update(training.engines[STUDENT].weights, step)


def weights(training: Training) -> dict[str, Tensor]:
    """What is trained, of all networks."""
    return {
        f"{name}.{key}": parameter.detach().clone()
        for name, engine in training.engines.items()
        for key, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }


def _worker(rank: int, folder: str) -> None:
    """One of two, for all objectives, since each process imports DeepSpeed."""
    from orchestrator.training.deepspeed_engine import prepare_process

    prepare_process()
    for arm in TRAINED:
        _train(rank, Path(folder) / arm, arm)
        distributed.barrier()


def _train(rank: int, path: Path, arm: str) -> None:
    """Train without a break, then again from a checkpoint of the step before the last."""
    from orchestrator.training.deepspeed_engine import Engine

    rows = slice(2 * rank, 2 * rank + 2)

    def sharded() -> Training:
        training = Training("pixart", ARMS[arm])
        training.engines = {
            name: Engine(engine.module, rate(training, name), training.train, betas(training, name))
            for name, engine in training.engines.items()
        }
        training.average = AverageWeights(training.engines[STUDENT].weights, training.train.ema_decay)
        return training

    whole = sharded()
    steps(whole, rows, 1, STEPS - 1)
    write_part(path, rank, whole.engines, whole.average)  # type: ignore[arg-type]
    steps(whole, rows, STEPS, STEPS)
    broken = sharded()
    if rank == 0:
        (path / MANIFEST).write_text(Manifest(Progress(STEPS - 1), 2, {}, None).to_json())
    distributed.barrier()
    load(path, rank, broken.engines, broken.average)  # type: ignore[arg-type]
    assert verify(path).progress.step == STEPS - 1
    steps(broken, rows, STEPS, STEPS)
    found = weights(whole), weights(broken)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert all(torch.equal(broken.average.weights[key], each) for key, each in whole.average.weights.items())
    if rank == 0:
        save_file({key: value.contiguous() for key, value in found[0].items()}, path / "trained")


def betas(training: Training, name: str) -> tuple[float, float] | None:
    return None if name == STUDENT else training.objective.auxiliary[name].adam_betas


def rate(training: Training, name: str) -> float:
    auxiliary = training.objective.auxiliary
    return training.train.learning_rate if name == STUDENT else auxiliary[name].learning_rate


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two workers have trained, by arm."""
    folder = tmp_path_factory.mktemp("sharded")
    for arm in TRAINED:
        (folder / arm).mkdir()
    start_workers(2, _worker, folder)()
    return folder


@pytest.mark.parametrize("arm", TRAINED)
def test_two_workers_train_what_one_device_trains(arm: str, trained_by_two: Path) -> None:
    alone = Training("pixart", replace(ARMS[arm], batch_size=ROWS))
    before = weights(alone)
    steps(alone, slice(0, ROWS), 1, STEPS)
    trained, expected = load_file(trained_by_two / arm / "trained"), weights(alone)
    assert trained.keys() == expected.keys()
    moved = torch.cat([(expected[key] - before[key]).flatten() for key in expected])
    off = torch.cat([(expected[key] - trained[key]).flatten() for key in expected])
    # AdamW's first steps are of one size whatever the gradient: where that is all rounding, signs differ.
    assert off.norm() < 0.05 * moved.norm()
