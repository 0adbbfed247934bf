"""The low-rank approximation of a change, against numpy's singular value decomposition."""

import numpy as np
import pytest
import torch

from workloads.export.low_rank import full_rank, low_rank, product

SHAPES = [(12, 7), (7, 12), (9, 9), (6, 4, 3, 3), (40, 4, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 100])
def test_it_is_the_best_of_its_rank(shape: tuple[int, ...], rank: int) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = low_rank(change, rank)
    left, values, right = np.linalg.svd(change.flatten(1).double().numpy(), full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    ours = product(found.down, found.up)
    assert ours.shape == change.shape
    np.testing.assert_allclose(ours.flatten(1).numpy(), expected, atol=1e-5)
    assert found.energy == pytest.approx((values**2).sum())
    assert found.kept == pytest.approx((values[:rank] ** 2).sum())
    assert len(found.down) == found.up.shape[1] == min(rank, full_rank(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_of_the_factors_is_the_change(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = low_rank(change, 100)
    down, up = found.down.double(), found.up.double()
    if change.ndim == 2:
        x = torch.randn(5, shape[1], dtype=torch.float64)
        torch.testing.assert_close(x @ down.T @ up.T, x @ change.T, rtol=1e-4, atol=1e-4)
    else:
        x = torch.randn(2, shape[1], 8, 8, dtype=torch.float64)
        stages = torch.conv2d(torch.conv2d(x, down, stride=2, padding=1), up)
        torch.testing.assert_close(stages, torch.conv2d(x, change, stride=2, padding=1), rtol=1e-4, atol=1e-4)


def test_a_change_of_lower_rank_gives_no_rounding_errors() -> None:
    """Directions that the change does not have would be divided by almost nothing."""
    change = torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 6.0)) * 1e-4
    found = low_rank(change, 4)
    assert found.down.isfinite().all() and found.up.isfinite().all()
    assert max(found.down.abs().max(), found.up.abs().max()) < 10
    torch.testing.assert_close(product(found.down.half(), found.up.half()), change, rtol=2e-3, atol=1e-7)
    assert found.kept == pytest.approx(found.energy)


def test_nothing_is_nothing() -> None:
    found = low_rank(torch.zeros(4, 3), 2)
    assert not product(found.down, found.up).any() and (found.energy, found.kept) == (0, 0)
