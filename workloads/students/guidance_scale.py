"""The guidance embedding of a student that reads its scale, in its folder.

A UNet is saved in the layout of diffusers (`time_cond_proj_dim`), so stock pipelines of Stable Diffusion draw
at their `guidance_scale`, with one network call. diffusers' transformers have no such weights: theirs are in
a file beside the network, and stock pipelines, which open the network alone, draw at its neutral scale.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workloads.backbones.backbone import network_kind
from workloads.backbones.families import family_of
from workloads.backbones.load_errors import one_line
from workloads.backbones.network_calls import Network
from workloads.backbones.weight_files import find_weights
from workloads.layers.guidance_input import (
    FEATURES,
    GuidanceConditioned,
    GuidanceEmbedding,
    unet_features,
    unet_features_used,
)
from workloads.students.scale_range import ScaleRange, load_scales, save_scales

WEIGHTS = "guidance_embedding.safetensors"
"""File of a transformer's guidance embedding."""


@torch.no_grad()
def write_embedding(
    network: nn.Module, embedding: GuidanceEmbedding, scales: ScaleRange, folder: Path
) -> None:
    """Write a student's scales and embedding into `folder`; a UNet's embedding into `network`.

    Args:
        network: The student's network, in float32, which is saved next; a UNet is changed in place.
        embedding: Its embedding, in float32.
        scales: Its interval and default.
        folder: Exists.
    """
    save_scales(folder, scales)
    if embedding.of_unet:
        _add_to_unet(network, embedding, scales.neutral)
        return
    last = embedding.get_submodule("projection.linear_2")
    for weight in last.parameters():
        weight.mul_(embedding.gain)
    save_file({name: part.contiguous() for name, part in embedding.state_dict().items()}, folder / WEIGHTS)


def _add_to_unet(network: Any, embedding: GuidanceEmbedding, neutral: float) -> None:
    """Add diffusers' own layer for guidance scales, whose embedding is not 0 at the neutral scale."""
    weight = embedding.gain * embedding.get_parameter("projection.weight") * unet_features_used()
    features = unet_features(torch.tensor([neutral])).to(weight)[0]
    time = network.time_embedding
    time.linear_1.bias -= time.linear_1.weight @ (weight @ features)
    time.cond_proj = nn.Linear(FEATURES, len(weight), bias=False)
    time.cond_proj.weight = nn.Parameter(weight)
    network.register_to_config(time_cond_proj_dim=FEATURES)


def conditioned(network: nn.Module, folder: Path, scales: ScaleRange | None) -> Network:
    """Return the loaded network of the student in `folder`, which reads guidance scales if there are any.

    Raises:
        ValueError: The file of its embedding is damaged.
    """
    if scales is None:
        return network
    embedding = GuidanceEmbedding.of(network, scales.neutral)
    if not embedding.of_unet:
        embedding.load_state_dict(_load_weights(folder))
        return GuidanceConditioned(network, embedding).requires_grad_(False).eval()

    def call(latents: Tensor, *args: Any, guidance_scale: Tensor, **kwargs: Any) -> Any:
        features = unet_features(guidance_scale).to(latents.dtype)
        return network(latents, *args, timestep_cond=features, **kwargs)

    return call


def _load_weights(folder: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"its {WEIGHTS} cannot be read: {one_line(error)}") from None
    return weights


@torch.no_grad()
def set_default(folder: Path, default: float) -> None:
    """Change the default scale of the student in `folder`.

    A transformer's weights then draw at it, if its embedding of time has a bias; FLUX.2's has none.

    Raises:
        ValueError: The student was not trained at that scale.
    """
    scales = load_scales(folder)
    assert scales is not None, "the student reads no guidance scales"
    scales.check(default)
    neutral = scales.neutral
    if (folder / WEIGHTS).exists() and _move_bias(folder, neutral, default):
        neutral = default
    save_scales(folder, replace(scales, default=default, neutral=neutral))


def _move_bias(folder: Path, before: float, after: float) -> bool:
    """Change a transformer's neutral scale by its weights; return False if the layer has no bias."""
    family, weights = family_of(str(folder)), _load_weights(folder)
    layer = network_kind(family).time_layer
    embedding = GuidanceEmbedding(layer, len(weights["projection.linear_2.bias"]), False, before)
    embedding.load_state_dict(weights)
    moved = embedding(torch.tensor([after]))[0]
    for file in find_weights(str(folder), family.network).files:
        tensors = load_file(file)
        if (bias := tensors.get(f"{layer}.bias")) is not None:
            save_file({**tensors, f"{layer}.bias": (bias + moved).to(bias.dtype)}, file, {"format": "pt"})
            return True
    return False
