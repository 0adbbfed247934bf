"""Exponential moving average of what a student trains of its weights, kept in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AverageWeights:
    """The moving average of an engine's `weights`.

    It warms up, so that early steps do not hold on to the start.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """`weights`: what they are at the start."""
        self.decay = decay
        self.weights = {name: weight.detach().clone().float() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Moves towards `weights`, as they are after step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [weights[name].detach().float() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes up a saved average of the same weights."""
        for name, value in self.weights.items():
            value.copy_(weights[name])


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Writes `weights`, by parameters' names, into `network`."""
    parameters = dict(network.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)
