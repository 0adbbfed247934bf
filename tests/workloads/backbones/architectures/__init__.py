"""Published backbones built from the shipped configs, with random weights or none.

The configs contain the values that define the architecture, as published by runwayml (SD1.5), Stability AI
(SD2.1-base, SDXL-base-1.0) and PixArt-alpha (PixArt-XL-2-512x512).
"""

from typing import Any

import torch

from workloads.backbones.architectures import SHIPPED
from workloads.backbones.backbone import NETWORK_CLASSES, Backbone, load_latent_scale, load_schedule
from workloads.backbones.conditioning import Conditioning
from workloads.backbones.families import family_of
from workloads.backbones.file_checks import read_json

NAMES = ("sd15", "sd21-base", "sdxl", "pixart-512")
ROOT = SHIPPED


def build(name: str, device: str = "meta") -> Backbone:
    """Build the backbone with random weights; without weights on the meta device."""
    source = str(ROOT / name)
    family = family_of(source)
    network_class: Any = NETWORK_CLASSES[family.network]
    with torch.device(device):
        network = network_class.from_config(config(name, family.network))
    network.requires_grad_(False).eval()
    schedule, scale = load_schedule(source), load_latent_scale(source)
    return Backbone(source, family, network, schedule, family.start_timestep, scale)


def config(name: str, part: str) -> dict[str, Any]:
    """Return the config of a component."""
    return read_json(ROOT / name / part / "config.json", str(ROOT / name))


def conditioning(backbone: Backbone, batch: int, device: str = "meta") -> Conditioning:
    """Return random embeddings in the shapes of the family's text encoders."""
    family, settings = backbone.family, backbone.config
    width = settings["cross_attention_dim" if family.network == "unet" else "caption_channels"]
    return Conditioning(
        torch.randn(batch, family.tokens, width, device=device),
        torch.ones(batch, family.tokens, dtype=torch.long, device=device) if family.masked else None,
        torch.randn(batch, 1280, device=device) if family.pooled else None,
    )
