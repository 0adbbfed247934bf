"""How a network of each diffusers class is called, as the stock pipeline of its family calls it.

`NETWORKS` has an entry for each class. Packing, position ids, the form of the time and the sign of the output
are decided here and nowhere else.

Shapes: B batch, C latent channels, H latent size, P pooled width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    Flux2Transformer2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn

from workloads.backbones.prompts.conditioning import Conditioning

Network = Callable[..., Any]
"""A diffusers network, or a DeepSpeed engine or DDP module around one."""
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Inputs of one call, in the precision of the network."""

    latents: Tensor
    """(B, C, H, H), noisy."""
    time: Tensor
    """Timesteps as the schedulers of diffusers count them, (B,): 0 to 999, or 1000 t in flow matching."""
    text: Conditioning
    """Conditioning of B prompts."""
    pixels: int
    """Side of the picture in pixels."""


@dataclass(frozen=True)
class NetworkKind:
    """One diffusers class of networks."""

    model: type[nn.Module]
    call: Callable[[Network, nn.Module, Inputs], Tensor]
    """Calls a network, given the module whose config it has; returns (B, C or more, H, H)."""
    text_width: Callable[[Config], int]
    """Width of the prompt's embeddings."""
    time_layer: str
    """Layer of the embedding of time at which that of a guidance scale is added: see `guidance_input`."""
    pooled_width: Callable[[Config], int] = lambda config: 0
    """Width of the pooled embedding; 0 if the network takes none."""
    token_size: Callable[[Config], int] = lambda config: int(config.get("patch_size") or 1)
    """Latents per side of one token of a transformer; 1 for a UNet."""


def _call_unet(network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
    """Call a UNet of Stable Diffusion; with a pooled embedding, one of SDXL.

    SDXL's added conditions are pooled embeddings (B, P), and sizes in pixels (B, 6): original height and
    width, top and left of the crop, target height and width. As in the stock pipeline, they are those of an
    uncropped image at the backbone's own resolution.
    """
    text, added = inputs.text, dict[str, Any]()
    if text.pooled is not None:
        # Filled on the device, because a copy from the host would make the host wait.
        sizes = inputs.latents.new_full((len(text), 6), inputs.pixels)
        sizes[:, 2:4] = 0
        added = {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": sizes}}
    output: Tensor = network(inputs.latents, inputs.time, text.embeddings, return_dict=False, **added)[0]
    return output


def _call_pixart(network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
    """Call PixArt; at 1024 px PixArt-alpha also takes the size in pixels (B, 2) and its ratio (B, 1)."""
    size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if model.use_additional_conditions:
        latents = inputs.latents
        pixels = latents.new_full((len(latents), 2), inputs.pixels)
        size = {"resolution": pixels, "aspect_ratio": latents.new_ones((len(latents), 1))}
    output: Tensor = network(
        inputs.latents,
        encoder_hidden_states=inputs.text.embeddings,
        timestep=inputs.time,
        encoder_attention_mask=inputs.text.mask,
        added_cond_kwargs=size,
        return_dict=False,
    )[0]
    return output


def _call_sana(network: Network, model: Any, inputs: Inputs) -> Tensor:
    output: Tensor = network(
        inputs.latents,
        encoder_hidden_states=inputs.text.embeddings,
        timestep=inputs.time * model.config["timestep_scale"],
        encoder_attention_mask=inputs.text.mask,
        return_dict=False,
    )[0]
    return output


def _call_sd3(network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
    output: Tensor = network(
        inputs.latents,
        encoder_hidden_states=inputs.text.embeddings,
        pooled_projections=inputs.text.pooled,
        timestep=inputs.time,
        return_dict=False,
    )[0]
    return output


def _call_flux2(network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
    """Call FLUX.2 with latents as tokens (B, H H, C), and t itself as the time.

    Positions have four axes: 0, row and column of a latent, and index of a token of the text.
    """
    latents, text = inputs.latents, inputs.text.embeddings
    zero, place, index = (
        torch.arange(count, device=latents.device) for count in (1, latents.shape[-1], text.shape[1])
    )
    output: Tensor = network(
        latents.flatten(2).transpose(1, 2),
        encoder_hidden_states=text,
        timestep=inputs.time / 1000,
        img_ids=torch.cartesian_prod(zero, place, place, zero),
        txt_ids=torch.cartesian_prod(zero, zero, zero, index),
        return_dict=False,
    )[0]
    return output.transpose(1, 2).reshape(len(output), -1, *latents.shape[2:])


def _call_z_image(network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
    """Call Z-Image with lists of samples and of prompts without padding, and with 1 - t; it predicts -v."""
    latents, text = inputs.latents.unsqueeze(2), inputs.text
    prompts = list(text.embeddings)
    if text.mask is not None and not text.mask.is_meta:  # "meta" has no values: prompts of full length
        prompts = [row[kept] for row, kept in zip(prompts, text.mask.bool(), strict=True)]
    time = (1000 - inputs.time) / 1000  # less rounding than 1 - t, which the network multiplies by 1000
    output: list[Tensor] = network(list(latents), time, prompts, return_dict=False)[0]
    return -torch.stack(output).squeeze(2)


def _unet_pooled_width(config: Config) -> int:
    """Return the width of SDXL's pooled embedding, which the network joins with those of six sizes."""
    width = config.get("projection_class_embeddings_input_dim") or 0
    return int(width and width - 6 * config["addition_time_embed_dim"])


NETWORKS = {
    "UNet2DConditionModel": NetworkKind(
        UNet2DConditionModel,
        _call_unet,
        lambda config: config["cross_attention_dim"],
        "time_embedding.linear_1",
        _unet_pooled_width,
    ),
    "PixArtTransformer2DModel": NetworkKind(
        PixArtTransformer2DModel,
        _call_pixart,
        lambda config: config["caption_channels"],
        "adaln_single.emb.timestep_embedder.linear_2",
    ),
    "SanaTransformer2DModel": NetworkKind(
        SanaTransformer2DModel,
        _call_sana,
        lambda config: config["caption_channels"],
        "time_embed.emb.timestep_embedder.linear_2",
    ),
    "SD3Transformer2DModel": NetworkKind(
        SD3Transformer2DModel,
        _call_sd3,
        lambda config: config["joint_attention_dim"],
        "time_text_embed.timestep_embedder.linear_2",
        lambda config: config["pooled_projection_dim"],
    ),
    "Flux2Transformer2DModel": NetworkKind(
        Flux2Transformer2DModel,
        _call_flux2,
        lambda config: config["joint_attention_dim"],
        "time_guidance_embed.timestep_embedder.linear_2",
    ),
    "ZImageTransformer2DModel": NetworkKind(
        ZImageTransformer2DModel,
        _call_z_image,
        lambda config: config["cap_feat_dim"],
        "t_embedder.mlp.2",
        token_size=lambda config: config["all_patch_size"][0],
    ),
}
"""Kinds of networks by the name of their class."""
