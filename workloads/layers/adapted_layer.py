"""A linear or convolution layer with low-rank adapters, of which the role of the current call selects one.

Role 0 is the frozen layer itself, role j the layer with its adapter of set j:

    y = W x + (alpha / rank) B_j A_j x            (Hu et al. 2021, arXiv 2106.09685, eq. 3)

Shapes: B batch, r rank, `in` and `out` widths of a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.settings.train import LoraSettings

MERGE_DTYPES = (torch.float32, torch.float64)
"""Precisions in which adapters may be added to the weights; bfloat16 would round small updates away."""
BASE = 0
"""Role of the frozen network itself."""


@dataclass(frozen=True)
class RowRoles:
    """Roles of a call whose rows differ in them."""

    rows: Tensor
    """Role of each row, integers (B,)."""
    sets: tuple[int, ...]
    """The adapter sets that occur in `rows`; others are not computed."""


Role = int | RowRoles
"""Role of a call: one for all rows, or one for each row."""


@dataclass
class Gate:
    """Role of the current call, shared by all adapters of one network."""

    role: Role = BASE
    sets: int = 0
    """Number of adapter sets on the network."""


class Adapter(nn.Module):
    """A low-rank update of one linear or convolution layer: x -> B A x, without the factor alpha / rank."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, settings: LoraSettings) -> None:
        super().__init__()
        self.scale = settings.alpha / settings.rank
        self.down, self.up = _low_rank(layer, settings.rank)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return B A x, in the shape of the layer's output."""
        update: Tensor = self.up(self.down(x))
        return update

    def adapted(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        """Return the output of `layer` for `x` with this update."""
        if self._merging_is_cheaper(layer, x):
            return self._merged(layer, x)
        return torch.add(layer(x), self(x), alpha=self.scale)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """Return the layer's `weight` with this update, (out, in) or that of a convolution."""
        return _merge(weight, *self._factors)

    @property
    def _factors(self) -> tuple[Tensor, Tensor, float]:
        return self.down.weight, self.up.weight, self.scale

    def _merging_is_cheaper(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> bool:
        """Return whether merging costs less than two products of rank r; False in low precision."""
        if layer.weight.dtype not in MERGE_DTYPES:
            return False
        if isinstance(layer, nn.Conv2d):
            return True
        width, out = layer.in_features, layer.out_features
        return x.numel() // width * (width + out) > width * out

    def _merged(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        """Apply the layer with the weight W + (alpha / rank) B A, without products of rank r over `x`."""
        if torch.is_grad_enabled() and isinstance(layer, nn.Linear):
            apply: Callable[..., Tensor] = MergedLinear.apply
            return apply(x, layer.weight, layer.bias, *self._factors)
        weight = self.merged_weight(layer.weight)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        out: Tensor = layer._conv_forward(x, weight, layer.bias)
        return out


class AdaptedLayer(nn.Module):
    """A frozen linear or convolution layer with an adapter for each set that adapts it."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, gate: Gate) -> None:
        super().__init__()
        self.layer = layer
        self.adapters = nn.ModuleDict()
        """Adapters by the number of their set."""
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer in the gate's role; shapes are those of the layer itself, with B rows."""
        role = self.gate.role
        if isinstance(role, RowRoles):
            return self._mixed(x, role)
        adapter = self.adapter(role)
        if adapter is not None:
            return adapter.adapted(self.layer, x)
        plain: Tensor = self.layer(x)
        return plain

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, which some networks read for its precision."""
        return self.layer.weight

    def adapter(self, role: int) -> Adapter | None:
        """Return the adapter of this layer in set number `role`; None if the set does not adapt it."""
        key = str(role)
        if key not in self.adapters:
            return None
        adapter: Any = self.adapters[key]
        found: Adapter = adapter
        return found

    def _mixed(self, x: Tensor, roles: RowRoles) -> Tensor:
        out: Tensor = self.layer(x)
        for role in roles.sets:
            if (adapter := self.adapter(role)) is not None:
                chosen = (roles.rows == role).to(out.dtype).view(-1, *[1] * (out.dim() - 1))
                out = torch.add(out, adapter(x) * chosen, alpha=adapter.scale)
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


def is_adaptable(layer: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Return whether a layer can have an adapter: linear ones, and convolutions without groups."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


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
