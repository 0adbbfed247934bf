"""How a layer's attention to the prompt is steered away from its attention to the negative prompt.

Shapes: B batch, Q queries (latent positions), D width of all heads together.
"""

import torch
from torch import Tensor

EPSILON = 1e-6


def nasa(positive: Tensor, negative: Tensor, strength: Tensor) -> Tensor:
    """Z+ - alpha Z- (NASA; SNOOPI, arXiv 2412.02687v3, eq. 9).

    Args:
        positive, negative: (B, Q, D), attention to prompt and negative prompt by one query,
            heads merged, before the output projection.
        strength: alpha, () or (B, 1, 1).
    """
    return positive - strength * negative


def nag(positive: Tensor, negative: Tensor, strength: Tensor, clip: float, blend: float) -> Tensor:
    """Normalised attention guidance (NAG, arXiv 2505.21179, eqs. 7 to 10); shapes as in `nasa`.

    Z~ = Z+ + phi (Z+ - Z-), shortened so that no token's L1 norm is above `clip` times that of
    Z+, then blended: `blend` Z^ + (1 - `blend`) Z+. With clip 0 (no clip) and blend 1 it is the
    plain extrapolation Z~. (The published code's `nag_scale` is phi + 1.)
    """
    steered = positive + strength * (positive - negative)
    if clip > 0:
        norm, most = _l1(steered), clip * _l1(positive)
        steered = steered * (torch.minimum(norm, most) / (norm + EPSILON)).to(steered.dtype)
    return torch.lerp(positive, steered, blend) if blend < 1 else steered


def _l1(features: Tensor) -> Tensor:
    """(B, Q, D) -> (B, Q, 1), in float32 at least."""
    widened = features.to(torch.promote_types(features.dtype, torch.float32))
    return widened.abs().sum(-1, keepdim=True)
