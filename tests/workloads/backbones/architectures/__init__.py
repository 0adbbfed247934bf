"""Published backbones built from the shipped configs, with random weights or none.

The configs contain the values that define the architecture, as published by runwayml (SD1.5), Stability AI
(SD2.1-base, SDXL-base-1.0, SD3.5-medium), PixArt-alpha (PixArt-XL-2-512x512, PixArt-Sigma),
Efficient-Large-Model (SANA), Black Forest Labs (FLUX.2 klein) and Tongyi-MAI (Z-Image).
"""

from dataclasses import replace
from typing import Any

import torch

from workloads.backbones.architectures import SHIPPED
from workloads.backbones.backbone import Backbone, load_latent_sizes, load_schedule, network_kind
from workloads.backbones.families import family_of
from workloads.backbones.file_checks import read_json
from workloads.backbones.prompts.conditioning import Conditioning

NAMES = ("sd15", "sd21-base", "sdxl", "pixart-512")
FLOW_NAMES = ("sana-600m", "sana-1600m", "sd35-medium", "flux2-klein-4b", "z-image")
"""Of flow matching."""
ROOT = SHIPPED


def build(name: str, device: str = "meta") -> Backbone:
    """Build the backbone with random weights; without weights on the meta device."""
    source = str(ROOT / name)
    family = family_of(source)
    network_class: Any = network_kind(family).model
    with torch.device(device):
        network = network_class.from_config(config(name, family.network))
    network.requires_grad_(False).eval()
    schedule, sizes = load_schedule(source), load_latent_sizes(source, family, network.config)
    return Backbone(source, family, network, schedule, family.start_timestep, *sizes)


def config(name: str, part: str) -> dict[str, Any]:
    """Return the config of a component."""
    return read_json(ROOT / name / part / "config.json", str(ROOT / name))


def conditioning(backbone: Backbone, batch: int, device: str = "meta") -> Conditioning:
    """Return random embeddings in the shapes of the family's text encoders."""
    family, width = backbone.family, backbone.kind.text_width(backbone.config)
    tokens = family.tokens + family.added_tokens
    return Conditioning(
        torch.randn(batch, tokens, width, device=device),
        torch.ones(batch, tokens, dtype=torch.long, device=device) if family.masked else None,
        torch.randn(batch, backbone.kind.pooled_width(backbone.config), device=device)
        if family.pooled
        else None,
    )


def called_on_meta(backbone: Backbone, batch: int = 2) -> torch.Tensor:
    """Call the network of a backbone on the meta device; return the prediction."""
    device = torch.device("meta")
    latents = torch.empty(batch, *backbone.latent_shape, device=device)
    timestep = torch.empty(batch, dtype=torch.int64, device=device)
    placed = replace(backbone, schedule=backbone.schedule.to(device))
    return placed.predict(backbone.network, latents, timestep, conditioning(backbone, batch))
