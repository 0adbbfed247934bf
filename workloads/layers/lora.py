"""LoRA: on a frozen network that plays both roles of variational score distillation, and on a student.

The same network is the teacher and, with its adapters on, the fake score. Which of them a call
sees is told by a role: all rows the teacher, all rows the fake score, or a mask with 0 for a
row of the teacher and 1 for one of the fake score. No adapter is ever switched off: a compiled
network sees the role, and cannot freeze one in.

    y = W x + mask * (alpha / rank) * B A x            (Hu et al. 2021, eq. 3)

Shapes: B batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.layers.transformer_blocks import recompute
from workloads.settings.train import LoraSettings

ALL = "all"
SEPARATOR = "/"
"""For the dots of a layer's name, which a module's key may not hold."""
MERGED = (torch.float32, torch.float64)
"""Precisions in which adapters are added to the weights: bfloat16 would round small ones away."""
Role = bool | Tensor
"""False: the teacher; True: the fake score; (B,): 0 or 1 for each row."""


@dataclass
class Gate:
    """Holds the role of the current call for all the adapters of one network."""

    role: Role = False


class AdaptedLayer(nn.Module):
    """A frozen linear or convolution layer with a low-rank update."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, settings: LoraSettings, gate: Gate) -> None:
        super().__init__()
        self.layer = layer
        self.scale = settings.alpha / settings.rank
        self.down, self.up = _low_rank(layer, settings.rank)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)
        self._gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), as the layer itself."""
        role = self._gate.role
        if role is False:
            plain: Tensor = self.layer(x)
            return plain
        if role is True and self._merging_pays(x):
            return self._merged(x)
        out: Tensor = self.layer(x)
        update = self.up(self.down(x))
        if isinstance(role, Tensor):
            update = update * role.to(out.dtype).view(-1, *[1] * (out.dim() - 1))
        return torch.add(out, update, alpha=self.scale)

    def _merging_pays(self, x: Tensor) -> bool:
        """Not where the precision is low, nor where a whole weight is more than two thin passes."""
        layer = self.layer
        if layer.weight.dtype not in MERGED:
            return False
        if isinstance(layer, nn.Conv2d):
            return True
        width, out = layer.in_features, layer.out_features
        return x.numel() // width * (width + out) > width * out

    def _merged(self, x: Tensor) -> Tensor:
        """With W + (alpha / rank) B A for a weight: no pass of low rank over the activations."""
        layer, factors = self.layer, (self.down.weight, self.up.weight, self.scale)
        if torch.is_grad_enabled() and isinstance(layer, nn.Linear):
            apply: Callable[..., Tensor] = MergedLinear.apply
            return apply(x, layer.weight, layer.bias, *factors)
        weight = _merge(layer.weight, *factors)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        out: Tensor = layer._conv_forward(x, weight, layer.bias)
        return out


class MergedLinear(torch.autograd.Function):
    """A linear layer under a merged weight, which is made again in the backward pass, not kept.

    Without `setup_context`, for which torch would look up `forward`'s signature in every call.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """x: (..., in), A: (r, in), B: (out, r); scale: alpha / rank."""
        ctx.scale = scale
        ctx.save_for_backward(x, weight, down, up)
        return F.linear(x, _merge(weight, down, up, scale), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, A and B; the weight and its bias are frozen."""
        x, weight, down, up = ctx.saved_tensors
        of_x = gradient @ _merge(weight, down, up, ctx.scale) if ctx.needs_input_grad[0] else None
        x, gradient = x.flatten(0, -2), gradient.flatten(0, -2)
        of_down = (ctx.scale * (gradient @ up)).mT @ x
        of_up = gradient.mT @ (ctx.scale * (x @ down.mT))
        return of_x, None, None, of_down, of_up, None


def _merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + (alpha / rank) B A, in the shape of W."""
    merged = torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1), alpha=scale)
    return merged.view_as(weight)


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
        self.settings = settings
        self._gate = Gate()
        self._call: Callable[..., Any] = network.__call__
        adapted = _adapt(network, settings, self._gate)
        keys = {name: name.replace(".", SEPARATOR) for name in adapted}
        self.down = nn.ModuleDict({keys[name]: layer.down for name, layer in adapted.items()})
        self.up = nn.ModuleDict({keys[name]: layer.up for name, layer in adapted.items()})
        self.requires_grad_(True)

    @property
    def layers(self) -> list[str]:
        """Names of the adapted layers, in the network's order."""
        return [key.replace(SEPARATOR, ".") for key in self.down]

    def forward(self, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's own output with the adapters on, for all B rows."""
        return self.mixed(True, latents, *args, **kwargs)

    def mixed(self, role: Role, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's own output for `latents` (B, C, H, H), each row in its role."""
        with _playing(self._gate, role):
            return self._call(latents, *args, **kwargs)

    def recompute(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`blocks.recompute` for a module of the network: the second call is in the role of the first."""
        role = self._gate.role

        def again(*inputs: Any, **named: Any) -> Any:
            with _playing(self._gate, role):
                return module(*inputs, **named)

        return recompute(again, *args, **kwargs)


def adapt_student(network: nn.Module, settings: LoraSettings) -> None:
    """Freezes `network` and puts adapters into it, in place, which are always on and are trained.

    Raises:
        ValueError: no layer of the network bears a target's name.
    """
    network.requires_grad_(False)
    for layer in _adapt(network, settings, Gate(True)).values():
        layer.down.requires_grad_(True)
        layer.up.requires_grad_(True)


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Makes plain layers of all adapted ones, in place, in float32 under the merged weights."""
    adapted = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    for name, layer in adapted:
        weight, down, up = (part.weight.float() for part in (layer.layer, layer.down, layer.up))
        layer.layer.weight = nn.Parameter(_merge(weight, down, up, layer.scale))
        network.set_submodule(name, layer.layer)


def _adapt(network: nn.Module, settings: LoraSettings, gate: Gate) -> dict[str, AdaptedLayer]:
    """Replaces the target layers of `network`, in place; the new ones by name."""
    adapted = {
        name: AdaptedLayer(layer, settings, gate).to(layer.weight)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and _is_target(name, settings.targets)
    }
    if not adapted:
        raise ValueError(f"no layer of {type(network).__name__} is named {settings.targets}")
    for name, layer in adapted.items():
        network.set_submodule(name, layer)
    return adapted


@contextmanager
def _playing(gate: Gate, role: Role) -> Iterator[None]:
    before, gate.role = gate.role, role
    try:
        yield
    finally:
        gate.role = before


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return ALL in targets or any(name == t or name.endswith("." + t) for t in targets)


def _low_rank(layer: nn.Linear | nn.Conv2d, rank: int) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
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
        "padding_mode": layer.padding_mode,
    }
    return (
        nn.Conv2d(layer.in_channels, rank, bias=False, **window),
        nn.Conv2d(rank, layer.out_channels, kernel_size=1, bias=False),
    )
