"""Formulas that guide a layer's attention to the prompt away from the negative prompt.

NASA and NAG combine the layer's attention to the prompt (Z+) with that to the negative prompt (Z-). Both
attentions have the same queries. They are combined with heads merged and before the output projection,
whose bias therefore counts once (SNOOPI, arXiv 2412.02687v3, supplement). VSF changes the values of the
negative prompt in one attention to both prompts.

Shapes: B batch, Q queries (latent positions), D width of all heads together, h heads, S tokens of the
negative prompt, d width of a head.
"""

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to a norm that divides, as in the published code of NAG."""


def nasa(positive: Tensor, negative: Tensor, strength: Tensor) -> Tensor:
    """Return Z+ - alpha Z-, (B, Q, D): NASA (SNOOPI, arXiv 2412.02687v3, eq. 9).

    Args:
        positive: Z+ (B, Q, D), attention to the prompt.
        negative: Z- (B, Q, D), attention to the negative prompt.
        strength: alpha, () or (B, 1, 1).
    """
    return positive - strength * negative


def nag(positive: Tensor, negative: Tensor, strength: Tensor, clip: float, blend: float) -> Tensor:
    """Return normalised attention guidance, (B, Q, D) (NAG, arXiv 2505.21179, eqs. 7 to 10).

        Z~ = Z+ + phi (Z+ - Z-)                                             eq. 7
        Z^ = Z~ min(R, tau) / R,    R = |Z~|_1 / |Z+|_1 per token           eqs. 8 and 9
        result = a Z^ + (1 - a) Z+                                          eq. 10

    With `clip` 0 (no normalisation) and `blend` 1 the result is the plain extrapolation Z~. The
    `nag_scale` of the published code is phi + 1.

    Args:
        positive: Z+ (B, Q, D), attention to the prompt.
        negative: Z- (B, Q, D), attention to the negative prompt.
        strength: phi, () or (B, 1, 1).
        clip: tau; 0 turns normalisation off.
        blend: a.
    """
    steered = positive + strength * (positive - negative)
    if clip > 0:
        norm, most = _l1(steered), clip * _l1(positive)
        steered = steered * (torch.minimum(norm, most) / (norm + EPSILON)).to(steered.dtype)
    return torch.lerp(positive, steered, blend) if blend < 1 else steered


def vsf_values(value: Tensor, strength: Tensor) -> Tensor:
    """Return -a V-, (B, h, S, d): Value Sign Flip (VSF, arXiv 2508.10931, ICLR 2026; github weathon/VSF).

        Z = softmax(Q [K+ ; K-]^T / sqrt(d)) [V+ ; -a V-]

    One softmax covers the keys of both prompts, so a query is pushed away from a negative token as far as
    it attends to it. The negative tokens also take attention from the prompt: the limit of a -> 0 is not
    the attention to the prompt alone.

    The published code subtracts an offset from the logits of K- in some networks (0.08 to 0.2; Flux: none).
    That multiplies their weights before normalisation by 0.92 to 0.82, much as a smaller `a` does, so there
    is none here.

    Args:
        value: V- (1 or B, h, S, d).
        strength: a, () or (B, 1, 1, 1).
    """
    return -strength * value


def _l1(features: Tensor) -> Tensor:
    """Return the L1 norm of each token of (B, Q, D) as (B, Q, 1), in float32 or wider."""
    widened = features.to(torch.promote_types(features.dtype, torch.float32))
    return widened.abs().sum(-1, keepdim=True)
