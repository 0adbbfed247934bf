"""Classifier-free guidance (Ho and Salimans 2022) at guidance scales that are drawn from an interval.

The raw outputs of a network are guided. Without rescaling this is the same as guiding epsilon, v or x_0,
since each is an affine function of the output, the same for both outputs.

Shapes: B batch, C latent channels, H latent height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.settings.objectives.guided import Distribution, GuidedSettings


def guide(unconditional: Tensor, conditional: Tensor, scale: Tensor, token_size: int | None = None) -> Tensor:
    """Return (1 - k) o(null) + k o(y), (B, C, H, H); k = 1 is no guidance (SNOOPI v3, eq. 4).

    Args:
        unconditional: o(null), (B, C, H, H).
        conditional: o(y), (B, C, H, H).
        scale: guidance scales k, (B,).
        token_size: Latents per side of a token, to rescale the result's norm; None: no rescaling.
    """
    guided = torch.lerp(unconditional, conditional, scale.view(-1, 1, 1, 1))
    return guided if token_size is None else rescale_norm(guided, conditional, token_size)


def rescale_norm(guided: Tensor, conditional: Tensor, token_size: int) -> Tensor:
    """Return `guided` (B, C, H, H) with the L2 norm that `conditional` has in each token.

    A token is `token_size` x `token_size` latents with all channels, as the network embeds them; the stock
    pipeline of Qwen-Image rescales its packed tokens like this. The result is not linear in the guidance
    scale.
    """
    ratio = _token_power(conditional, token_size) / _token_power(guided, token_size).clamp(min=1e-20)
    return guided * F.interpolate(ratio.sqrt(), scale_factor=token_size)


def _token_power(latents: Tensor, token_size: int) -> Tensor:
    """Return the mean square of each token's latents, (B, 1, H / token_size, H / token_size)."""
    return F.avg_pool2d(latents.square().mean(1, keepdim=True), token_size)


def draw_scale(
    interval: tuple[float, float], batch: int, per_sample: bool, generator: torch.Generator
) -> Tensor:
    """Draw guidance scales (B,) uniformly from `interval`; one for the whole batch unless `per_sample`."""
    low, high = interval
    draws = torch.rand(batch if per_sample else 1, generator=generator, device=generator.device)
    return (low + (high - low) * draws).expand(batch)


def draw_guidance(settings: GuidedSettings, batch: int, generator: torch.Generator) -> Tensor:
    """Draw the teacher's guidance scales (B,) of a step.

    They are uniform in the interval. For a student that reads its scale their logarithm is, so that equal
    ratios count alike.
    """
    low, high = settings.guidance_interval
    if not settings.guidance_input:
        return draw_scale((low, high), batch, settings.guidance_per == "sample", generator)
    draws = torch.rand(batch, generator=generator, device=generator.device)
    return low * (high / low) ** draws


def draw_timesteps(
    distribution: Distribution, first: int, last: int, batch: int, generator: torch.Generator
) -> Tensor:
    """Draw timesteps (B,) in [first, last), uniform, or as the sigmoid of normal numbers (logit-normal).

    The second prefers the middle of the range (Esser et al. 2024, arXiv 2403.03206, sec. 3.1).
    """
    device = generator.device
    if distribution == "uniform":
        return torch.randint(first, last, (batch,), generator=generator, device=device)
    share = torch.randn(batch, generator=generator, device=device).sigmoid()
    return (first + share * (last - first)).long().clamp(max=last - 1)
