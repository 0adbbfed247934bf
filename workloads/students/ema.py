"""Exponential moving average (EMA) of the weights that a student trains, in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AverageWeights:
    """Moving average of an engine's `weights`, by name, each with the shape of its weight.

    The decay warms up, min(decay, (1 + step) / (10 + step)), so that the initial weights fade quickly.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Start from a copy of the initial `weights`."""
        self.decay = decay
        self.weights = {name: weight.detach().clone().float() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move the average towards the `weights` after step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [weights[name].detach().float() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in a saved average of the same weights."""
        for name, value in self.weights.items():
            value.copy_(weights[name])


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Copy `weights`, keyed by parameter name, into `network`."""
    parameters = dict(network.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)


@contextmanager
def exchanged_weights(weights: Mapping[str, Tensor], network: nn.Module) -> Iterator[None]:
    """Copy `weights`, keyed by parameter name, into `network`, and restore its own after the block."""
    parameters = dict(network.named_parameters())
    own = {name: parameters[name].detach().clone() for name in weights}
    copy_weights(weights, network)
    try:
        yield
    finally:
        copy_weights(own, network)
