"""A LoRA in the names of kohya's trainer, which ComfyUI and AUTOMATIC1111 read.

    unet.down_blocks.0.attentions.0.proj_in.lora_A.weight
    -> lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight

Beside both factors of a layer there is its alpha: a reader multiplies their product by alpha / rank. Here all
layers have the same alpha, since diffusers reads different ones wrongly; in layers of another rank the factor
is in the weight. The names of SDXL's network are those of its original code, as that trainer uses them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workloads.backbones.families import Family
from workloads.export.lora import DOWN, UP, Lora
from workloads.export.original_names import UNetLayout, unet_layer

FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "ZImagePipeline")
"""Families whose LoRAs have such names, and whose reader in diffusers takes them."""
SDXL = "StableDiffusionXLPipeline"
NETWORK = "lora_unet"


def kohya_names(lora: Lora, family: Family, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the factors and alphas of `lora` by kohya's names.

    Args:
        lora: of a student of `family`, with the names of diffusers.
        family: one of FAMILIES.
        config: of the student's network.

    Raises:
        ValueError: a layer of SDXL's UNet has no name in the original code.
    """
    found: dict[str, Tensor] = {}
    for key in (key.removesuffix(DOWN) for key in lora.tensors if key.endswith(DOWN)):
        down, up = lora.tensors[key + DOWN], lora.tensors[key + UP]
        name = _layer_name(key, family, config)
        found[f"{name}.lora_down.weight"] = down
        found[f"{name}.lora_up.weight"] = up if len(down) == lora.rank else up * (len(down) / lora.rank)
        found[f"{name}.alpha"] = torch.tensor(float(lora.rank))
    return found


def _layer_name(key: str, family: Family, config: Mapping[str, Any]) -> str:
    """Return kohya's name of a layer PART.LAYER."""
    part, _, layer = key.partition(".")
    if part == family.network and family.pipeline == SDXL:
        try:
            layer = unet_layer(layer, UNetLayout.of(config))
        except KeyError as error:
            raise ValueError(f"the UNet has a layer that the original code has not: {error}") from None
    return f"{_prefix(part, family)}_{layer.replace('.', '_')}"


def _prefix(part: str, family: Family) -> str:
    if part == family.network:
        return NETWORK
    if len(family.text_encoders) == 1:
        return "lora_te"
    return "lora_te2" if part == "text_encoder_2" else "lora_te1"
