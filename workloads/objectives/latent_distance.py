"""Distances between two latents, and the random transforms under which they are compared.

    mse                  mean (x - y)^2
    features             d(x, y), distance of feature maps (`layers.latent_features`)
    augmented_features   d(T x, T y), T a random transform, the same on both sides (E-LatentLPIPS: Kang et al.
                         2024, arXiv 2405.05967, sec. 3.2)

A small network maps many latents to the same features. A random transform at each step leaves fewer of them.

Shapes: B batch, C latent channels, H latent size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.125
"""Largest shift along each axis, as a share of the side."""
LOG2_SCALE = 0.2
"""Standard deviation of log2 of a scale, one for both axes and one for their ratio."""


@dataclass(frozen=True)
class Transforms:
    """One affine transform per sample."""

    matrices: Tensor
    """From places in the result to places in the input, both from -1 to 1, (B, 2, 3)."""

    def __getitem__(self, rows: slice) -> "Transforms":
        return Transforms(self.matrices[rows])

    def __call__(self, latents: Tensor) -> Tensor:
        """Return the transformed latents (B, C, H, H), mirrored at the borders."""
        grid = F.affine_grid(self.matrices, list(latents.shape), align_corners=False)
        return F.grid_sample(latents, grid, padding_mode="reflection", align_corners=False)


def draw_transforms(batch: int, generator: torch.Generator) -> Transforms:
    """Draw a transform per sample: a flip, a rotation by any angle, scales of both axes, and a shift.

    Geometry alone, as in the paper; the scales are those of its author's code.
    """
    device = generator.device
    uniform = torch.rand(4, batch, generator=generator, device=device)
    normal = torch.randn(2, batch, generator=generator, device=device)
    angle = 2 * math.pi * uniform[0]
    both, ratio = torch.exp2(LOG2_SCALE * normal)
    flip = torch.where(uniform[1] < 0.5, -1.0, 1.0)
    across, down = flip * both * ratio, both / ratio
    shift = 2 * SHIFT * (2 * uniform[2:] - 1)
    first = torch.stack([across * angle.cos(), -down * angle.sin(), shift[0]], 1)
    second = torch.stack([across * angle.sin(), down * angle.cos(), shift[1]], 1)
    return Transforms(torch.stack([first, second], 1))
