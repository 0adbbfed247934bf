"""Classifier-free guidance (Ho and Salimans 2022) at guidance scales that are drawn from an interval.

Shapes: B batch, C latent channels, H latent height and width.
"""

import torch
from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, scale: Tensor) -> Tensor:
    """Return (1 - k) e(null) + k e(y), (B, C, H, H); k = 1 is no guidance (SNOOPI v3, eq. 4).

    Args:
        unconditional: e(null), (B, C, H, H).
        conditional: e(y), (B, C, H, H).
        scale: guidance scales k, (B,).
    """
    return torch.lerp(unconditional, conditional, scale.view(-1, 1, 1, 1))


def draw_scale(
    interval: tuple[float, float], batch: int, per_sample: bool, generator: torch.Generator
) -> Tensor:
    """Draw guidance scales (B,) uniformly from `interval`; one for the whole batch unless `per_sample`."""
    low, high = interval
    draws = torch.rand(batch if per_sample else 1, generator=generator, device=generator.device)
    return (low + (high - low) * draws).expand(batch)
