"""What the guided layers of a network share, and how guidance is put into a network.

Shapes: B samples, N tokens of the negative prompt, D text width, Q queries (latent positions), W width of all
heads together, h heads, d width of a head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

import workloads.attention.kernels as kernels
from workloads.settings.train import AttentionGuidanceSettings

InputHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
"""A forward pre-hook of torch, which changes the positional and the named inputs of a module."""


@dataclass(frozen=True)
class Plan:
    """What guidance changes in a network while it is on."""

    processors: Mapping[Any, Any]
    """The attention processor of each guided layer."""
    hooks: Sequence[tuple[nn.Module, InputHook]] = ()
    """Changes of the inputs of the network or of its modules."""


@dataclass
class GuidanceState:
    """Parameters of the guidance that all layers of a network share; holds no reference to the layers."""

    settings: AttentionGuidanceSettings
    strength: Tensor
    """() or (B, 1, 1); a change in place does not recompile a compiled network."""
    rows: slice = field(default_factory=lambda: slice(None))
    """The rows, of B samples, that the next call of the network is for."""

    @property
    def one_softmax(self) -> bool:
        """Whether the queries attend to both prompts in one softmax (VSF), not in one for each."""
        return self.settings.kind == "vsf"

    def combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return a layer's guided features (B, Q, W) from its attention to both prompts, each (B, Q, W)."""
        strength = self._strength(positive)
        if self.settings.kind == "nasa":
            return kernels.nasa(positive, negative, strength)
        return kernels.nag(positive, negative, strength, self.settings.clip, self.settings.blend)

    def flip(self, value: Tensor) -> Tensor:
        """Return the values (B, h, N, d) of the negative prompt as VSF attends to them."""
        strength = self._strength(value)
        return kernels.vsf_values(value, strength[..., None] if strength.dim() else strength)

    def select(self, tensor: Tensor) -> Tensor:
        """Select the rows of the current call from (1 or B, ...); a single row serves all samples."""
        return tensor if len(tensor) == 1 else tensor[self.rows]

    def _strength(self, features: Tensor) -> Tensor:
        strength = self.strength.to(features.dtype)
        return strength[self.rows] if strength.dim() else strength
