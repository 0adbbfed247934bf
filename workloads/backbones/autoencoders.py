"""Autoencoders of the families: the size of their latents, and how latents are scaled and decoded.

Latents are those of the network: scaled to about unit variance, and for FLUX.2 with 2 x 2 of them packed into
channels.

Shapes: B batch, C latent channels of the network, H latent size, P pixels a side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2
from torch import Tensor, nn

Config = Mapping[str, Any]
Autoencoder = Any
"""An `AutoencoderKL`, `AutoencoderDC` or `AutoencoderKLFlux2`; their common methods are in no class."""


@dataclass(frozen=True)
class AutoencoderKind:
    """One diffusers class of autoencoders."""

    model: type[nn.Module]
    scale: Callable[[Config], int]
    """Pixels per side of one latent."""
    channels: Callable[[Config], int]
    """Latent channels C."""
    unscale: Callable[[Any, Tensor], Tensor]
    """Turns latents of the network (B, C, H, H) into those that the autoencoder decodes."""


def decode_latents(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents (B, C, H, H) to pictures (B, 3, P, P), about in [-1, 1]; differentiable."""
    kind = AUTOENCODERS[type(autoencoder).__name__]
    pictures: Tensor = autoencoder.decode(kind.unscale(autoencoder, latents)).sample
    return pictures


def _unscale(autoencoder: Any, latents: Tensor) -> Tensor:
    """Undo the scaling by one factor and, in SD3's and FLUX.1's autoencoders, the shift by one number."""
    shift = autoencoder.config.get("shift_factor") or 0.0
    unscaled: Tensor = latents / autoencoder.config["scaling_factor"] + shift
    return unscaled


def _unscale_flux2(autoencoder: Any, latents: Tensor) -> Tensor:
    """Undo the normalisation by the batch norm's statistics, and unpack 2 x 2 latents from the channels."""
    norm, epsilon = autoencoder.bn, autoencoder.config["batch_norm_eps"]
    mean, variance = (part.view(1, -1, 1, 1) for part in (norm.running_mean, norm.running_var))
    # The channels of a packed latent are ordered as in PyTorch's pixel_unshuffle.
    return F.pixel_shuffle(latents * torch.sqrt(variance + epsilon) + mean, 2)


def _levels(config: Config) -> int:
    return 1 << (len(config["block_out_channels"]) - 1)


AUTOENCODERS = {
    "AutoencoderKL": AutoencoderKind(
        AutoencoderKL, _levels, lambda config: config["latent_channels"], _unscale
    ),
    "AutoencoderDC": AutoencoderKind(
        AutoencoderDC,
        lambda config: 1 << (len(config["encoder_block_out_channels"]) - 1),
        lambda config: config["latent_channels"],
        _unscale,
    ),
    "AutoencoderKLFlux2": AutoencoderKind(
        AutoencoderKLFlux2,
        lambda config: 2 * _levels(config),
        lambda config: 4 * config["latent_channels"],
        _unscale_flux2,
    ),
}
"""Kinds of autoencoders by the name of their class."""


def latent_size(network: Config, autoencoder: Config, kind: AutoencoderKind) -> int:
    """Return the latent size H for which a network was trained.

    Networks with rotary positions do not state it; then it follows from the autoencoder's `sample_size`,
    which is in pixels.

    Raises:
        ValueError: Neither config states one integer.
    """
    stated = network.get("sample_size")
    size = autoencoder.get("sample_size") if stated is None else stated
    if not isinstance(size, int):
        raise ValueError("sample_size is not an integer")
    return size if stated is not None else size // kind.scale(autoencoder)
