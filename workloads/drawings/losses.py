"""Losses of the drawn world's teachers: v prediction and flow matching.

Shapes: B batch, K = 16 channels, H = 8 latent size, S = 16 tokens.
"""

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from workloads.drawings.networks import TEXT_WIDTH

EMPTY_T5_TOKENS = 1
"""Tokens of zeros in place of the absent T5, `max_sequence_length` of the pipeline."""


def v_loss(
    parts: nn.ModuleDict,
    schedule: DDIMScheduler,
    latents: Tensor,
    ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean squared error in v (scalar) of `latents` (B, K, H, H) and `ids` (B, S)."""
    noise = torch.randn(latents.shape, generator=generator)
    timestep = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    noisy = schedule.add_noise(latents, noise, timestep)
    target = schedule.get_velocity(latents, noise, timestep)
    states = parts["text"](ids).last_hidden_state
    error: Tensor = (parts["net"](noisy, timestep, states).sample - target).square().mean()
    return error


def flow_loss(parts: nn.ModuleDict, latents: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the velocity noise - latents (scalar), times mostly in the middle.

    Times have the logit-normal law of Stable Diffusion 3 (Esser et al. 2024, section 3.1), shifted to noise.
    """
    noise = torch.randn(latents.shape, generator=generator)
    sigma = torch.sigmoid(0.3 + 1.1 * torch.randn(len(latents), generator=generator))
    mixed = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1))
    states, pooled = encode_for_transformer(parts, ids)
    velocity = parts["net"](
        hidden_states=mixed,
        timestep=1000 * sigma,
        encoder_hidden_states=states,
        pooled_projections=pooled,
    ).sample
    error: Tensor = (velocity - (noise - latents)).square().mean()
    return error


def encode_for_transformer(parts: nn.ModuleDict, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return states (B, S + 1, W) and pooled states (B, W) of `ids` (B, S), as the SD3 pipeline does."""
    outputs = [parts[name](ids, output_hidden_states=True) for name in ("text", "text_2")]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    empty = torch.zeros(len(ids), EMPTY_T5_TOKENS, TEXT_WIDTH)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    return torch.cat([states, empty], dim=1), pooled
