"""Latent space of the drawn world: principal components of patches of 4 x 4 pixels.

A teacher trains on these latents at once, and an autoencoder learns to compute them afterwards
(`autoencoder.py`). They keep 28 dB of a picture's signal.

Shapes: N pictures, P = 32 pixels, H = 8 latent size, K = 16 channels, D = 48 values of a patch.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

PATCH = 4
CHANNELS = 16
WHITENING = 0.6
"""Exponent of a channel's scale: 1 gives every channel unit variance, 0 leaves them as in the pixels."""


@dataclass(frozen=True)
class LatentSpace:
    """Linear map of pictures to latents, whose mean is 0 and whose mean variance is 1."""

    basis: Tensor
    """(K, D), rows are orthonormal."""
    mean: Tensor
    """(D,)"""
    scale: Tensor
    """(K,)"""

    def encode(self, images: Tensor) -> Tensor:
        """Map pictures (N, 3, P, P) in [-1, 1] to latents (N, K, H, H)."""
        patches = F.pixel_unshuffle(images, PATCH) - self.mean[:, None, None]
        return torch.einsum("kd,ndhw->nkhw", self.basis * self.scale[:, None], patches)

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents (N, K, H, H) to pictures (N, 3, P, P) in [-1, 1]."""
        patches = torch.einsum("kd,nkhw->ndhw", self.basis / self.scale[:, None], latents)
        return F.pixel_shuffle(patches + self.mean[:, None, None], PATCH).clamp(-1, 1)


def fit_latent_space(images: Tensor) -> LatentSpace:
    """Fit to pictures (N, 3, P, P) in [-1, 1]."""
    patches = F.pixel_unshuffle(images, PATCH).movedim(1, -1).flatten(0, 2).double()
    mean = patches.mean(0)
    variances, vectors = torch.linalg.eigh((patches - mean).T.cov())
    order = variances.argsort(descending=True)[:CHANNELS]
    basis, deviations = vectors[:, order].T, variances[order].clamp(min=1e-8).sqrt()
    # An eigenvector has no sign of its own, and each library picks another.
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    scale = deviations**-WHITENING
    scale = scale / (scale * deviations).square().mean().sqrt()
    return LatentSpace(basis.float(), mean.float(), scale.float())


def save_latent_space(space: LatentSpace, folder: Path) -> None:
    """Write `latents.safetensors` into `folder`."""
    parts = {"basis": space.basis, "mean": space.mean, "scale": space.scale}
    save_file({name: part.contiguous() for name, part in parts.items()}, folder / "latents.safetensors")


def load_latent_space(folder: Path) -> LatentSpace:
    """Read `latents.safetensors` from `folder`."""
    return LatentSpace(**load_file(folder / "latents.safetensors"))
