"""The best approximation of a weight's change by a product of low rank.

Shapes: r rank, `in` and `out` widths of a layer, K the sides of a convolution's window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = 1e-16
"""Square of a singular value, relative to the largest, that is rounding error in float64."""


@dataclass(frozen=True)
class LowRank:
    """Factors whose product approximates a change, and how much of it they hold."""

    down: Tensor
    """(r, in), or (r, in, K, K) for a convolution."""
    up: Tensor
    """(out, r), or (out, r, 1, 1) for a convolution."""
    energy: float
    """Sum of the squares of the change."""
    kept: float
    """Sum of the squares of the approximation."""


def low_rank(change: Tensor, rank: int) -> LowRank:
    """Return the best approximation of `change` (out, in) or (out, in, K, K) of at most `rank`.

    It is the truncated singular value decomposition (Eckart and Young 1936), computed in float64 from the
    eigenvectors of the smaller Gram matrix, which is exact to about 1e-8 of the largest singular value. Both
    factors have the same norms, so that neither leaves the range of half precision.
    """
    matrix = change.flatten(1).double()
    tall = matrix.shape[0] > matrix.shape[1]
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix if tall else matrix @ matrix.mT)
    # Ascending: the last ones are the largest.
    values, vectors = values[-rank:].flip(0).clamp(min=0), vectors[:, -rank:].flip(1)
    # Directions that the change does not have are not divided by their rounding errors.
    root = torch.where(values > values[0] * NOTHING, values.pow(0.25), 1.0)
    up, down = (
        (matrix @ vectors / root, vectors * root) if tall else (vectors * root, matrix.mT @ vectors / root)
    )
    energy = matrix.square().sum().item()
    return LowRank(*_shaped(down.mT, up, change), energy, min(values.sum().item(), energy))


def full_rank(shape: tuple[int, ...]) -> int:
    """Return the largest rank of a change of this shape, (out, in) or (out, in, K, K)."""
    width = 1
    for size in shape[1:]:
        width *= size
    return min(shape[0], width)


def product(down: Tensor, up: Tensor) -> Tensor:
    """Return the change that two factors of a LoRA stand for, in float32; shapes as in `LowRank`."""
    flat = up.flatten(1).float() @ down.flatten(1).float()
    return flat.view(up.shape[0], *down.shape[1:])


def _shaped(down: Tensor, up: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors in the shapes of layers, contiguous and in float32."""
    if change.ndim == 2:
        return down.float().contiguous(), up.float().contiguous()
    return (
        down.reshape(-1, *change.shape[1:]).float().contiguous(),
        up[:, :, None, None].float().contiguous(),
    )
