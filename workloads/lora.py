"""LoRA on a frozen network, chosen per sample by a mask.

One network plays both roles of variational score distillation: rows whose mask is 0 see the
frozen teacher, rows whose mask is 1 the fake score. There is no branch to disable, so a batch
may hold both roles, and `torch.compile` cannot freeze one in.

    y = W x + mask * (alpha / rank) * B A x            (Hu et al. 2021, eq. 3)

Shapes: B batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workloads.settings import LoraSettings

ALL = "all"


class Gate:
    """Holds the mask of the current batch for all the adapters of one network."""

    mask: Tensor | None = None
    """(B,), 0 for the teacher and 1 for the fake score; None: all teacher."""


class AdaptedLayer(nn.Module):
    """A frozen linear or convolution layer with a masked low-rank update."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, settings: LoraSettings, gate: Gate) -> None:
        super().__init__()
        self.layer = layer
        self.scale = settings.alpha / settings.rank
        down, up = _low_rank(layer, settings.rank)
        self.down: nn.Module = down
        self.up: nn.Module = up
        nn.init.kaiming_uniform_(down.weight, a=5**0.5)
        nn.init.zeros_(up.weight)
        self._gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), as the layer itself."""
        out: Tensor = self.layer(x)
        mask = self._gate.mask
        if mask is None:
            return out
        update = self.up(self.down(x)) * self.scale
        chosen: Tensor = out + mask.to(out.dtype).view(-1, *[1] * (out.dim() - 1)) * update
        return chosen


class FakeScore(nn.Module):
    """The trainable adapters, as a module of their own; called like the network they adapt.

    The frozen network is no submodule: an engine around this one then moves, averages, saves
    and restores the adapters alone.
    """

    def __init__(self, network: nn.Module, settings: LoraSettings) -> None:
        """Replaces the target layers of `network` in place.

        Raises:
            ValueError: no layer of the network bears a target's name.
        """
        super().__init__()
        self._gate = Gate()
        self._call: Callable[..., Any] = network.__call__
        adapted = {
            name: AdaptedLayer(layer, settings, self._gate).to(layer.weight)
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and _is_target(name, settings.targets)
        }
        if not adapted:
            raise ValueError(f"no layer of {type(network).__name__} is named {settings.targets}")
        for name, layer in adapted.items():
            network.set_submodule(name, layer)
        keys = {name: name.replace(".", "/") for name in adapted}
        self.down = nn.ModuleDict({keys[name]: layer.down for name, layer in adapted.items()})
        self.up = nn.ModuleDict({keys[name]: layer.up for name, layer in adapted.items()})
        self.requires_grad_(True)

    def forward(self, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's own output with the adapters on, for all B rows."""
        return self.mixed(torch.ones(len(latents), device=latents.device), latents, *args, **kwargs)

    def mixed(self, mask: Tensor, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's own output; `mask` (B,) is 0 for teacher rows, 1 for fake-score rows."""
        self._gate.mask = mask
        try:
            return self._call(latents, *args, **kwargs)
        finally:
            self._gate.mask = None


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return ALL in targets or any(name == t or name.endswith("." + t) for t in targets)


def _low_rank(
    layer: nn.Linear | nn.Conv2d, rank: int
) -> tuple[nn.Linear, nn.Linear] | tuple[nn.Conv2d, nn.Conv2d]:
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )
    window: dict[str, Any] = {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
    }
    return (
        nn.Conv2d(layer.in_channels, rank, bias=False, **window),
        nn.Conv2d(rank, layer.out_channels, kernel_size=1, bias=False),
    )
