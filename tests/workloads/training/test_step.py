"""Step settings change how a step is computed, not its result."""

import copy

import pytest
import torch
from torch import Tensor

from tests.workloads.objectives.test_pgsb import BATCH, Bench
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.batch import Batch
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import StepSettings
from workloads.training.step import apply_settings, make_engines, train_step


def trained(settings: StepSettings) -> tuple[Tensor, list[Tensor]]:
    """Return the losses (L,) of a NASA-T step, and all weights after it."""
    bench = Bench("epsilon", nasa_interval=(0.5, 1.0))
    train = PGSBSettings(batch_size=BATCH, learning_rate=1e-2)
    bench.objective.score_batch = settings.score_batch
    student = copy.deepcopy(bench.student).train()
    torch._dynamo.reset()  # code compiled for other settings would be reused
    apply_settings(student, bench.objective, settings)
    engines = make_engines(student, bench.objective, train)
    torch.manual_seed(5)
    negatives = Conditioning(torch.randn(BATCH, 3, 6, dtype=torch.float64))
    losses = train_step(bench.objective, engines, Batch(bench.prompts, negatives), bench.draws)
    return losses, [p.detach() for engine in engines.values() for p in engine.module.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        StepSettings(score_batch="all"),
        StepSettings(score_batch="role"),
        StepSettings(activation_checkpointing=True),
        StepSettings(activation_checkpointing=True, score_batch="all"),
        pytest.param(StepSettings(compile=True), marks=pytest.mark.slow),
        pytest.param(StepSettings(activation_checkpointing=True, compile=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_settings_change_only_rounding(settings: StepSettings) -> None:
    losses, weights = trained(settings)
    expected, plain = trained(StepSettings())
    assert losses[2] > 0, "teacher and fake score differ"
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(weights, plain, rtol=1e-7, atol=1e-9)
