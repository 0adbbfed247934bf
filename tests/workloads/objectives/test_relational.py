"""RDD's terms by hand, what they are blind to, and their sum."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.workloads.objectives.test_regression import latents, network
from workloads.backbones.backbone import load_backbone
from workloads.miniature import WEIGHTS
from workloads.objectives.relational import Relational, bank_loss, class_loss, pixel_loss, positions
from workloads.settings.objectives.terms import RelationalSettings

ROWS, PLACES, WIDTH = 3, 4, 5


def unit(seed: int, *shape: int) -> Tensor:
    x = torch.randn(*shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = x / x.norm(dim=-1, keepdim=True)
    return unit


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of two softmaxes of vectors, from its definition."""
    p, q = teacher.exp() / teacher.exp().sum(), student.exp() / student.exp().sum()
    return (p * (p / q).log()).sum()


S, T, BANK = unit(0, ROWS, PLACES), unit(1, ROWS, PLACES), unit(2, 7)


def test_class_loss_by_hand() -> None:
    by_hand = torch.stack([kl(T[i, 0] / 0.9, S[i, 0]) for i in range(ROWS)]).mean()
    torch.testing.assert_close(class_loss(S[:, 0], T[:, 0], 0.9), by_hand, rtol=1e-12, atol=0)


def test_pixel_loss_by_hand() -> None:
    rows = [
        kl(
            torch.stack([T[i, p] @ T[j, q] for q in range(PLACES)]),
            torch.stack([S[i, p] @ S[j, q] for q in range(PLACES)]),
        )
        for i in range(ROWS)
        for j in range(ROWS)
        for p in range(PLACES)
    ]
    torch.testing.assert_close(pixel_loss(S, T), torch.stack(rows).mean(), rtol=1e-12, atol=0)


def test_bank_loss_by_hand() -> None:
    rows = [kl(BANK @ T[i, p] / 0.1, BANK @ S[i, p] / 0.1) for i in range(ROWS) for p in range(PLACES)]
    torch.testing.assert_close(bank_loss(S, T, BANK, 0.1), torch.stack(rows).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [pixel_loss, lambda s, t: bank_loss(s, t, BANK, 0.1)])
def test_zero_at_equality(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert loss(T, T).abs() < 1e-15 and loss(S, T) > 1e-3


def test_only_the_bank_sees_a_rotation_of_all_features() -> None:
    """Similarities between samples stay under it, so the pixel loss alone cannot hold the content."""
    rotation, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))
    assert pixel_loss(T @ rotation, T) < 1e-15
    assert bank_loss(T @ rotation, T, BANK, 0.1) > 0.1


def test_the_term_adds_the_weighted_losses() -> None:
    backbone, features = load_backbone(str(WEIGHTS / "pixart")), network()
    x, y = latents(0), latents(1)
    term = Relational(backbone, RelationalSettings(), features)
    of_x, of_y = features(x)[-1], features(y)[-1]
    a, b = positions(of_x), positions(of_y)
    expected = (
        class_loss(of_x.mean((2, 3)), of_y.mean((2, 3)), 0.9)
        + pixel_loss(a, b)
        + 0.1 * bank_loss(a, b, b.flatten(0, 1), 0.1)
    )
    torch.testing.assert_close(term(x, y), expected, rtol=1e-12, atol=0)
    x.requires_grad_()
    term(x, y).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.abs().max() > 0


def test_settings_without_any_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="are all 0: leave relational out"):
        RelationalSettings(class_weight=0, pixel_weight=0, bank_weight=0)
