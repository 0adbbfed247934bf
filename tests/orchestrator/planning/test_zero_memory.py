"""The memory of ZeRO-2 engines: what workers share, and what checkpointing saves beside them."""

import pytest

from orchestrator.planning.zero_memory import Zero2
from tests.workloads.training.test_memory_estimate import SD15, published
from workloads.settings.train import StepSettings


def test_optimizer_state_is_sharded_and_weights_are_not() -> None:
    one, four = (published(SD15, engines=Zero2(workers)) for workers in (1, 4))
    assert one.weights == four.weights and one.average == 4 * four.average
    assert one.optimizer == pytest.approx(4 * four.optimizer, rel=1e-6)
    # Float32 master weights and two moments of SD1.5 and of its adapters.
    assert one.optimizer == pytest.approx(12 * 859_520_964, rel=0.02)


def test_checkpointing_saves_activations_alone() -> None:
    zero = Zero2(workers=4)
    kept = published(SD15, 8, engines=zero)
    recomputed = published(SD15, 8, StepSettings(activation_checkpointing=True), zero)
    assert recomputed.step < 0.75 * kept.step
    assert recomputed.weights == kept.weights and recomputed.optimizer == kept.optimizer


def test_needs_lie_below_the_line_between_batches() -> None:
    """`estimate.suggestion` interpolates between one sample and all."""
    few, some, many = (published(SD15, rows, engines=Zero2(workers=4)).peak for rows in (1, 6, 16))
    assert few <= some <= few + (many - few) * 5 / 15


def test_more_buckets_take_more_memory() -> None:
    one, two = (published(SD15, engines=Zero2(4, buckets)) for buckets in (1, 2))
    assert one.step < two.step and one.optimizer == two.optimizer
