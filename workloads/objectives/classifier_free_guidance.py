"""Classifier-free guidance, at a fixed scale or at one drawn from an interval.

Shapes: B batch, C latent channels, H latent size.
"""

import torch
from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, scale: Tensor) -> Tensor:
    """(1 - k) e(null) + k e(y), scale k = 1 is no guidance (SNOOPI v3, eq. 4).

    Args:
        unconditional, conditional: (B, C, H, H).
        scale: (B,).
    """
    return torch.lerp(unconditional, conditional, scale.view(-1, 1, 1, 1))


def draw_scale(
    interval: tuple[float, float], batch: int, per_sample: bool, generator: torch.Generator
) -> Tensor:
    """Guidance scales (B,), uniform in `interval`; one for all unless `per_sample`."""
    low, high = interval
    draws = torch.rand(batch if per_sample else 1, generator=generator, device=generator.device)
    return (low + (high - low) * draws).expand(batch)
