"""The weight w(t) of the student's gradient in PG-SB.

Shapes: B batch, C latent channels, H latent height and width.
"""

from typing import Literal

import torch
from torch import Tensor

from workloads.backbones.noise_schedule import NoiseSchedule


def score_weight(
    weighting: Literal["sigma_squared", "uniform", "dmd"],
    schedule: NoiseSchedule,
    timestep: Tensor,
    latents: Tensor,
    noisy: Tensor,
    teacher: Tensor,
) -> Tensor:
    """Return w, (B, 1, 1, 1): 1, sigma_t^2, or that of DMD (arXiv 2311.18828, as in DMD2's code).

    Args:
        weighting: the setting of that name.
        schedule: of the backbone.
        timestep: t, (B,).
        latents: the student's latents x_0, (B, C, H, H).
        noisy: x_t, (B, C, H, H).
        teacher: the teacher's guided epsilon at x_t, (B, C, H, H).
    """
    if weighting == "uniform":
        return torch.ones_like(timestep, dtype=torch.float32).view(-1, 1, 1, 1)
    alpha, sigma = schedule.alpha_sigma(timestep)
    if weighting == "sigma_squared":
        return sigma.square()
    # The factor sigma / alpha converts a difference of epsilons to one of x_0 = (x_t - sigma e) / alpha.
    teacher_latents = (noisy - sigma * teacher) / alpha
    return sigma / alpha / (latents - teacher_latents).abs().mean((1, 2, 3), keepdim=True)
