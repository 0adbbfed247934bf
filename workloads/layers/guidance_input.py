"""The guidance scale as an input of a network: for a student that is trained for every scale of an interval.

An embedding of the scale k is added to the network's own embedding of time, where diffusers adds it too:

    W (s(k) - s(n))            to the input of a UNet's time embedding (`time_cond_proj_dim`; LCM,
                               arXiv 2310.04378, sec. 4.2), with the sinusoid s that stock pipelines feed
    MLP(log k) - MLP(log n)    to the output of a transformer's embedding of time, where SANA-Sprint
                               (arXiv 2503.09641) and FLUX.1 add theirs

n is the neutral scale, at which the network draws by its own weights. The last layer starts at zero, so that
a network without training ignores k. The network's forward pass stays as it is: the embedding is added by a
hook for the time of a call.

Shapes: B batch, W width of the layer.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from workloads.backbones.network_calls import NETWORKS

FEATURES = 256
"""Width of the sinusoid, as in the published LCMs, SANA-Sprint and FLUX.1."""
MAX_FREQUENCY = 0.4
"""Largest frequency of a UNet's sinusoid that is used, in radians per unit of k: half a period in 8 units.

Faster ones give distant scales the same embedding. The fastest, 1000, have errors of many periods where a
stock pipeline computes them in half precision."""


class GuidanceEmbedding(nn.Module):
    """An embedding of guidance scales for one network."""

    def __init__(self, layer: str, width: int, of_unet: bool, neutral: float, gain: float = 1.0) -> None:
        """Start at zero.

        Args:
            layer: Name of the network's layer at which the embedding is added.
            width: W, of that layer's input in a UNet, of its output in a transformer.
            of_unet: Whether the network is a UNet.
            neutral: Scale whose embedding is 0.
            gain: Factor on the output, which multiplies the learning rate under Adam.
        """
        super().__init__()
        self.layer, self.of_unet, self.neutral, self.gain = layer, of_unet, neutral, gain
        self.projection: nn.Linear | TimestepEmbedding
        if of_unet:
            self.projection = last = nn.Linear(FEATURES, width, bias=False)
        else:
            self.projection = TimestepEmbedding(FEATURES, width)
            last = self.projection.linear_2
            nn.init.zeros_(last.bias)
        nn.init.zeros_(last.weight)

    @classmethod
    def of(cls, network: nn.Module, neutral: float, gain: float = 1.0) -> "GuidanceEmbedding":
        """Return a new embedding for `network`, in its precision and on its device."""
        layer, of_unet = NETWORKS[type(network).__name__].time_layer, hasattr(network, "time_embedding")
        weight: Any = network.get_submodule(layer).weight
        return cls(layer, weight.shape[1 if of_unet else 0], of_unet, neutral, gain).to(weight)

    def forward(self, scale: Tensor) -> Tensor:
        """Return the embedding (B, W) of guidance scales (B,)."""
        both = torch.cat([scale, torch.full_like(scale, self.neutral)])
        features = unet_features(both) if self.of_unet else transformer_features(both)
        given, neutral = self.projection(features.to(next(self.parameters()))).chunk(2)
        embedded: Tensor = self.gain * (given - neutral)
        return embedded

    @contextmanager
    def added(self, network: nn.Module, scale: Tensor, rows: Tensor | None = None) -> Iterator[None]:
        """Add the embedding to calls of `network` within a with-block.

        Args:
            network: The network that this embedding is for.
            scale: Guidance scales, (B,).
            rows: Rows that the embedding is added to, bool (B,); None: all.
        """
        embedded = self(scale)
        if rows is not None:
            embedded = embedded * rows.to(embedded.dtype)[:, None]
        layer = network.get_submodule(self.layer)
        if self.of_unet:
            handle = layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] + embedded, *inputs[1:]))
        else:
            handle = layer.register_forward_hook(lambda _, inputs, output: output + embedded)
        try:
            yield
        finally:
            handle.remove()


class GuidanceConditioned(nn.Module):
    """A whole network together with a guidance embedding; called like the network, with the scales."""

    def __init__(self, network: nn.Module, embedding: GuidanceEmbedding) -> None:
        super().__init__()
        self.network, self.embedding = network, embedding

    def forward(self, latents: Tensor, *args: Any, guidance_scale: Tensor, **kwargs: Any) -> Any:
        """Call the network on `latents` (B, C, H, H) at guidance scales (B,); return its own output."""
        with self.embedding.added(self.network, guidance_scale):
            return self.network(latents, *args, **kwargs)


def unet_features(scale: Tensor) -> Tensor:
    """Return the sinusoid (B, 256) that stock pipelines feed to a UNet, 0 beyond `MAX_FREQUENCY`.

    `scale` is (B,). Weights of features that are 0 in training stay 0, as a stock pipeline needs.
    """
    frequencies = 1000 * _frequencies(FEATURES // 2 - 1, scale.device)
    angles = (scale.double() - 1)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1) * unet_features_used(scale.device)


def unet_features_used(device: torch.device | str = "cpu") -> Tensor:
    """Return which features of a UNet are used, bool (256,)."""
    return (1000 * _frequencies(FEATURES // 2 - 1, device) <= MAX_FREQUENCY).repeat(2)


def transformer_features(scale: Tensor) -> Tensor:
    """Return a sinusoid (B, 256) of log k, with frequencies from 1, for guidance scales k (B,)."""
    angles = scale.double().log()[:, None] * _frequencies(FEATURES // 2, scale.device)
    return torch.cat([angles.cos(), angles.sin()], 1)


def _frequencies(spaces: int, device: torch.device | str) -> Tensor:
    """Return 128 frequencies that fall from 1, to 1e-4 after `spaces` of them, in float64."""
    index = torch.arange(FEATURES // 2, dtype=torch.float64, device=device)
    return (-math.log(10_000) / spaces * index).exp()
