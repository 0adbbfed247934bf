"""Toys with the published structure of SD 1.5, SD 2.1 and SDXL: every block and layer, with small widths.

    LAYOUTS["sd21"](folder)

Configurations are the shipped ones of the published models, so that each name of a weight occurs that the
published models have; only widths, heads and the depth of SDXL's transformers and text encoders are smaller.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from tests.support.teacher_layouts import Change, edited, published, save_clip
from workloads.backbones.architectures import SHIPPED
from workloads.miniature.networks import TEXT_WIDTH

SECOND_WIDTH, POOLED, SIZES = 48, 24, 16
"""Widths of SDXL's second text encoder, of its pooled output, and of the embedding of each size input."""
GROUPS = 4
OPEN_CLIP = {"hidden_act": "gelu"}
SMALL_VAE = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": GROUPS, "sample_size": 64}
SMALL_UNET: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": [8, 16, 32, 32], "attention_head_dim": 2},
    "sd21-base": {"block_out_channels": [8, 16, 32, 32], "attention_head_dim": [1, 2, 4, 4]},
    "sdxl": {
        "block_out_channels": [8, 16, 32],
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 1, 2],
        "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
        "addition_time_embed_dim": SIZES,
        "projection_class_embeddings_input_dim": POOLED + 6 * SIZES,
    },
}


def _sd15(folder: Path) -> None:
    _networks(folder, "sd15")
    save_clip(folder, "", pad="<|endoftext|>")


def _sd21(folder: Path) -> None:
    _networks(folder, "sd21-base")
    save_clip(folder, "", pad="!")
    edited("text_encoder/config.json", **OPEN_CLIP)(folder)


def _sdxl(folder: Path) -> None:
    _networks(folder, "sdxl")
    save_clip(folder, "", pad="<|endoftext|>")
    save_clip(folder, "_2", pad="!", hidden_size=SECOND_WIDTH, projection_dim=POOLED, num_hidden_layers=3)
    edited("text_encoder_2/config.json", **OPEN_CLIP)(folder)


LAYOUTS: dict[str, Change] = {"sd15": _sd15, "sd21": _sd21, "sdxl": _sdxl}
"""Writes the folder of each toy."""


def _networks(folder: Path, name: str) -> None:
    """Write network and autoencoder with random weights, and the published index and scheduler."""
    torch.manual_seed(0)
    common = {"norm_num_groups": GROUPS, "cross_attention_dim": TEXT_WIDTH, "sample_size": 8}
    for part, kind, small in (
        ("unet", UNet2DConditionModel, common | SMALL_UNET[name]),
        ("vae", AutoencoderKL, SMALL_VAE),
    ):
        config = json.loads((SHIPPED / name / part / "config.json").read_text())
        kind.from_config({**config, **small}).save_pretrained(folder / part)
    published(folder, name)
