"""A small convolutional network whose features measure how alike two latents look.

Latents are compared by features as pictures are by LPIPS (Zhang et al. 2018, arXiv 1801.03924), without
decoding them (E-LatentLPIPS: Kang et al. 2024, arXiv 2405.05967, sec. 3.2). The network keeps the full
resolution up to its second tap, since latents are already small.

Shapes: B batch, C latent channels, H latent size, F features.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WIDTHS = (32, 64, 64)
"""Channels of the taps; the resolution halves before the last."""
GROUPS = 8


class LatentFeatures(nn.Module):
    """Feature maps of latents at three taps."""

    def __init__(self, channels: int) -> None:
        """`channels`: C of the latents."""
        super().__init__()
        pairs = zip((channels, *WIDTHS), WIDTHS, (1, 1, 2), strict=False)
        self.taps = nn.ModuleList(_tap(*pair) for pair in pairs)

    def forward(self, latents: Tensor) -> list[Tensor]:
        """Return the taps' maps (B, width, H, H) of latents (B, C, H, H); the last has half the size."""
        maps = []
        for tap in self.taps:
            latents = tap(latents)
            maps.append(latents)
        return maps

    def pooled(self, latents: Tensor) -> Tensor:
        """Return one feature vector (B, F) of each of the latents (B, C, H, H): the last map's mean."""
        pooled: Tensor = self(latents)[-1].mean((2, 3))
        return pooled


def _tap(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, padding=1), nn.GroupNorm(GROUPS, outside), nn.SiLU()
    )


def feature_distance(network: LatentFeatures, first: Tensor, second: Tensor) -> Tensor:
    """Return the distance (B,) of latents (B, C, H, H) to others, by all taps; the gradient passes to both.

    Each position's features have unit length, as in LPIPS (eq. 1, without weights of channels).
    """
    pairs = zip(network(first), network(second), strict=True)
    distances = [(F.normalize(a) - F.normalize(b)).square().sum(1).mean((1, 2)) for a, b in pairs]
    return torch.stack(distances).sum(0)


def load_features(path: str | Path, channels: int) -> LatentFeatures:
    """Load trained features for latents of C = `channels`, frozen and in evaluation mode.

    Raises:
        ValueError: The file cannot be read, or is for latents of other channels.
    """
    network = LatentFeatures(channels)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"features {str(path)!r}: not the weights of LatentFeatures for {channels} channels: {reason}"
        ) from None
    return network.requires_grad_(False).eval()
