"""LoRA adapters: on a frozen network that is both teacher and fake score, and on a student.

One network serves as the teacher and, with its adapters, as the fake score of variational score
distillation. Each call has a role: teacher for all rows, fake score for all rows, or a mask with 0 for
rows of the teacher and 1 for rows of the fake score. Adapters are selected by this role and never
removed, so a compiled network reads the role in every call instead of keeping that of its first.

    y = W x + mask * (alpha / rank) * B A x            (Hu et al. 2021, arXiv 2106.09685, eq. 3)

`FakeScore` adapts the teacher's network; `adapt_student` and `merge_adapters` are the student's.

Shapes: B batch, C latent channels, H latent size, r rank, `in` and `out` widths of a layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.layers.transformer_blocks import recompute
from workloads.settings.train import LoraSettings

ALL = "all"
"""Target that stands for every linear and convolution layer, but for convolutions in groups: those have no
update of low rank across their channels."""
SEPARATOR = "/"
"""Replacement for the dots in a layer's name, which the keys of a ModuleDict must not contain."""
MERGE_DTYPES = (torch.float32, torch.float64)
"""Precisions in which adapters may be added to the weights; bfloat16 would round small updates away."""
Role = bool | Tensor
"""False: teacher; True: fake score; tensor (B,): 0 or 1 for each row."""


@dataclass
class Gate:
    """Role of the current call, shared by all adapters of one network."""

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
        """Apply the layer in the gate's role; shapes are those of the layer itself, with B rows."""
        role = self._gate.role
        if role is False:
            plain: Tensor = self.layer(x)
            return plain
        if role is True and self._merging_is_cheaper(x):
            return self._merged(x)
        out: Tensor = self.layer(x)
        update = self.up(self.down(x))
        if isinstance(role, Tensor):
            update = update * role.to(out.dtype).view(-1, *[1] * (out.dim() - 1))
        return torch.add(out, update, alpha=self.scale)

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, which some networks read for its precision."""
        return self.layer.weight

    def _merging_is_cheaper(self, x: Tensor) -> bool:
        """Return whether merging costs less than two products of rank r; False in low precision."""
        layer = self.layer
        if layer.weight.dtype not in MERGE_DTYPES:
            return False
        if isinstance(layer, nn.Conv2d):
            return True
        width, out = layer.in_features, layer.out_features
        return x.numel() // width * (width + out) > width * out

    def _merged(self, x: Tensor) -> Tensor:
        """Apply the layer with the weight W + (alpha / rank) B A, without products of rank r over `x`."""
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
    """Linear layer with a merged weight, which the backward pass recomputes instead of keeping."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """Return x (W + scale B A)^T + bias, (..., out).

        Shapes: x (..., in), weight W (out, in), bias (out,), down A (r, in), up B (out, r).
        """
        ctx.scale = scale
        ctx.save_for_backward(x, weight, down, up)
        return F.linear(x, _merge(weight, down, up, scale), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B from `gradient` (..., out); weight and bias are frozen."""
        x, weight, down, up = ctx.saved_tensors
        of_x = gradient @ _merge(weight, down, up, ctx.scale) if ctx.needs_input_grad[0] else None
        x, gradient = x.flatten(0, -2), gradient.flatten(0, -2)
        of_down = (ctx.scale * (gradient @ up)).mT @ x
        of_up = gradient.mT @ (ctx.scale * (x @ down.mT))
        return of_x, None, None, of_down, of_up, None


def _merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return W + scale B A in the shape of W; convolution weights are flattened to (out, in * window)."""
    merged = torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1), alpha=scale)
    return merged.view_as(weight)


class FakeScore(nn.Module):
    """The trainable adapters as a module of their own, called like the network that they adapt.

    The frozen network is not a submodule, so an engine around this module moves, averages, saves and
    restores only the adapters.
    """

    def __init__(self, network: nn.Module, settings: LoraSettings) -> None:
        """Replace the target layers of `network` in place.

        Raises:
            ValueError: No layer of the network has a target's name.
        """
        super().__init__()
        self._gate = Gate()
        self._call: Callable[..., Any] = network.__call__
        adapted = _adapt(network, settings, self._gate)
        keys = {name: name.replace(".", SEPARATOR) for name in adapted}
        self.down = nn.ModuleDict({keys[name]: layer.down for name, layer in adapted.items()})
        self.up = nn.ModuleDict({keys[name]: layer.up for name, layer in adapted.items()})
        self.requires_grad_(True)

    def forward(self, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the network as the fake score on `latents` (B, C, H, H); return the network's own output."""
        return self.call_in_role(True, latents, *args, **kwargs)

    def call_in_role(self, role: Role, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the network on `latents` (B, C, H, H), each row in its role; return its own output."""
        with _in_role(self._gate, role):
            return self._call(latents, *args, **kwargs)

    def recompute(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Apply `transformer_blocks.recompute` to a module of the network, both calls in the same role."""
        role = self._gate.role

        def call_in_same_role(*inputs: Any, **named: Any) -> Any:
            with _in_role(self._gate, role):
                return module(*inputs, **named)

        return recompute(call_in_same_role, *args, **kwargs)


def adapt_student(network: nn.Module, settings: LoraSettings) -> None:
    """Freeze `network` and insert trainable adapters into it, in place, that are always active.

    Raises:
        ValueError: No layer of the network has a target's name.
    """
    network.requires_grad_(False)
    for layer in _adapt(network, settings, Gate(True)).values():
        layer.down.requires_grad_(True)
        layer.up.requires_grad_(True)


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Replace all adapted layers by plain ones with the merged weights, in place and in float32."""
    adapted = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    for name, layer in adapted:
        weight, down, up = (part.weight.float() for part in (layer.layer, layer.down, layer.up))
        layer.layer.weight = nn.Parameter(_merge(weight, down, up, layer.scale))
        network.set_submodule(name, layer.layer)


def _adapt(network: nn.Module, settings: LoraSettings, gate: Gate) -> dict[str, AdaptedLayer]:
    """Replace the target layers of `network` in place; return the new ones by name."""
    adapted = {
        name: AdaptedLayer(layer, settings, gate).to(layer.weight)
        for name, layer in network.named_modules()
        if _is_adaptable(layer) and _is_target(name, settings.targets)
    }
    if not adapted:
        raise ValueError(
            f"no layer of {type(network).__name__} is named {settings.targets}: "
            f"give targets that end the names of its layers, or [all]"
        )
    for name, layer in adapted.items():
        network.set_submodule(name, layer)
    return adapted


@contextmanager
def _in_role(gate: Gate, role: Role) -> Iterator[None]:
    before, gate.role = gate.role, role
    try:
        yield
    finally:
        gate.role = before


def _is_adaptable(layer: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


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
