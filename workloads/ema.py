"""Exponential moving average of what a student trains of its weights, kept in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AverageWeights:
    """The moving average; warms up, so that early steps do not hold on to the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone().float() for n, p in trained.items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves towards `network` after step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [p.detach().float() for n, p in network.named_parameters() if n in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Writes the average into the parameters of `network`."""
        parameters = dict(network.named_parameters())
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes up a saved average of the same network."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
