"""A conditional discriminator that starts as the teacher and reads its blocks (Diffusion2GAN: Kang et al.
2024, arXiv 2405.05967, sec. 3.3).

It reads a picture's latents at timestep 0, the prompt as the teacher reads it, and the noise of which the
picture is made, through a convolution that starts at zero. A read-out head at each of several depths gives a
logit for each position. Not taken from the paper: resized inputs for the encoder's levels.

Shapes: B batch, C latent channels, H latent size, L logits of all heads and positions.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import Conditioning

HEAD_WIDTH = 64
RECOMPUTES = "gradient_checkpointing"
"""Attribute by which the modules of diffusers are told to recompute their activations."""
DEPTHS = (1 / 3, 2 / 3, 1.0)
"""Depths of a transformer at which it is read, as shares of its blocks."""
AFTER_THE_BLOCKS = ("conv_norm_out", "conv_out", "norm_out", "proj_out", "scale_shift_table")
"""Parts of a network behind its last block, which are not used and therefore not trained."""


class Discriminator(nn.Module):
    """The teacher's network with read-out heads."""

    def __init__(self, backbone: Backbone, reads_noise: bool = True) -> None:
        """Copy the network of `backbone`, which must not have adapters yet.

        Raises:
            ValueError: The family's blocks cannot be read.
        """
        super().__init__()
        self._backbone = (backbone,)  # in a tuple, so that the teacher is no part of this module
        self.network: Any = copy.deepcopy(backbone.network).requires_grad_(True)
        for name, parameter in self.network.named_parameters():
            if name.partition(".")[0] in AFTER_THE_BLOCKS:
                parameter.requires_grad_(False)
        channels = backbone.latent_shape[0]
        like: dict[str, Any] = {"device": backbone.device, "dtype": backbone.dtype}
        self.noise_layer = nn.Conv2d(channels, channels, 1, bias=False, **like) if reads_noise else None
        if self.noise_layer is not None:
            nn.init.zeros_(self.noise_layer.weight)
        self._blocks = tuple(read_blocks(backbone))
        self.heads = nn.ModuleList(_head(width, like) for _, width in self._blocks)

    @contextmanager
    def keeping_activations(self) -> Iterator[None]:
        """Recompute no activations of calls within a with-block."""
        recomputing = [each for each in self.network.modules() if getattr(each, RECOMPUTES, False)]
        for module in recomputing:
            setattr(module, RECOMPUTES, False)
        try:
            yield
        finally:
            for module in recomputing:
                setattr(module, RECOMPUTES, True)

    def forward(self, latents: Tensor, noise: Tensor, prompts: Conditioning) -> Tensor:
        """Return logits (B, L) of latents and noise (B, C, H, H) with B prompts; high: the teacher's."""
        (backbone,) = self._backbone
        if self.noise_layer is not None:
            latents = latents + self.noise_layer(noise.to(backbone.dtype))
        maps: list[Tensor] = []
        handles = [
            self.network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output: maps.append(_tokens(output))
            )
            for name, _ in self._blocks
        ]
        try:
            timestep = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
            backbone.predict(self.network, latents, timestep, prompts)
        finally:
            for handle in handles:
                handle.remove()
        pairs = zip(self.heads, maps, strict=True)
        return torch.cat([head(found).flatten(1) for head, found in pairs], 1).float()


def read_blocks(backbone: Backbone) -> list[tuple[str, int]]:
    """Return names and widths of the blocks that a discriminator reads, in the order of the calls.

    Raises:
        ValueError: The family's blocks cannot be read.
    """
    network: Any = backbone.network
    if hasattr(network, "up_blocks"):
        widths = list(reversed(network.config["block_out_channels"]))
        return [(f"up_blocks.{index}", width) for index, width in enumerate(widths)]
    if len(getattr(network, "transformer_blocks", ())) and not hasattr(network, "single_transformer_blocks"):
        count, config = len(network.transformer_blocks), network.config
        width = config["num_attention_heads"] * config["attention_head_dim"]
        places = sorted({max(1, round(depth * count)) for depth in DEPTHS})
        return [(f"transformer_blocks.{place - 1}", int(width)) for place in places]
    raise ValueError(
        f"backbone {backbone.source!r}: adversarial is not defined for {type(network).__name__}: leave it out"
    )


def _head(width: int, like: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width, **like),
        nn.Linear(width, HEAD_WIDTH, **like),
        nn.SiLU(),
        nn.Linear(HEAD_WIDTH, 1, **like),
    )


def _tokens(output: Any) -> Tensor:
    """Return a block's features of the picture as (B, positions, width)."""
    # A block of joint attention returns those of the text too, first.
    found: Tensor = output[-1] if isinstance(output, tuple) else output
    return found.flatten(2).transpose(1, 2) if found.dim() == 4 else found
