"""A whole student as one checkpoint file in the layout of the original code.

It holds the UNet, the autoencoder and the text encoders of Stable Diffusion 1.5, 2.1 or SDXL, each in the
precision of the student's folder. What is written is checked with the functions by which diffusers reads such
files: they must give back the weights that the student has. The scheduler is not part of the layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    LDM_UNET_KEY,
    LDM_VAE_KEYS,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn

from workloads.backbones.autoencoders import AUTOENCODERS
from workloads.backbones.backbone import load_model, load_network
from workloads.backbones.families import Family, family_of
from workloads.backbones.prompts.text_encoder import load_text_encoder
from workloads.export.changes import StoredWeights
from workloads.export.original_names import UNetLayout, autoencoder_weight, unet_weight

FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
CLIP = "transformer."
OPEN_CLIP = "model."
PLACES = {
    "StableDiffusionPipeline": {"text_encoder": "cond_stage_model."},
    "StableDiffusionXLPipeline": {
        "text_encoder": "conditioner.embedders.0.",
        "text_encoder_2": "conditioner.embedders.1.",
    },
}
"""Prefix of each text encoder, by family."""
OPEN_CLIP_ACTIVATION = "gelu"
"""Activation in text encoders of OpenCLIP, which SD 2.1 and SDXL's second one are; OpenAI's have another."""
JOINED = ("q_proj", "k_proj", "v_proj")
"""Layers that OpenCLIP has as one."""


def single_file(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the student in `folder` by their names in the original layout.

    Raises:
        ValueError: it has layers that the layout does not have, or a part cannot be read.
    """
    family = family_of(str(folder))
    tensors = {**_unet(folder, family), **_autoencoder(folder, family)}
    for part, prefix in PLACES[family.pipeline].items():
        tensors |= _text_encoder(folder, part, dict(family.text_encoders)[part], prefix)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def is_open_clip(encoder: nn.Module) -> bool:
    """Return True for a text encoder of OpenCLIP, whose file has other names than those of OpenAI's."""
    config: Any = encoder.config
    return bool(config.hidden_act == OPEN_CLIP_ACTIVATION)


def _unet(folder: Path, family: Family) -> dict[str, Tensor]:
    weights: Any = load_network(str(folder), family, _precision(folder, family.network))
    state, config = weights.state_dict(), weights.config
    layout = UNetLayout.of(config)
    try:
        names = {name: unet_weight(name, layout) for name in state}
    except KeyError as error:
        raise ValueError(f"the UNet has a layer that the original code has not: {error}") from None
    found = {LDM_UNET_KEY + names[name]: weight for name, weight in state.items()}
    _check("UNet", state, convert_ldm_unet_checkpoint(dict(found), config))
    return found


def _autoencoder(folder: Path, family: Family) -> dict[str, Tensor]:
    kind: Any = AUTOENCODERS[family.autoencoder].model
    vae: Any = load_model(kind, str(folder), "vae", _precision(folder, "vae"))
    state, blocks = vae.state_dict(), len(vae.config["up_block_types"])
    try:
        names = {name: autoencoder_weight(name, blocks) for name in state}
    except KeyError as error:
        raise ValueError(f"the autoencoder has a layer that the original code has not: {error}") from None
    # The original attention has convolutions of one pixel for linear layers.
    found = {
        LDM_VAE_KEYS[0] + names[name]: weight[:, :, None, None] if _is_linear(name, weight) else weight
        for name, weight in state.items()
    }
    _check("autoencoder", state, convert_ldm_vae_checkpoint(dict(found), vae.config))
    return found


def _is_linear(name: str, weight: Tensor) -> bool:
    return ".attentions." in name and weight.ndim == 2


def _text_encoder(folder: Path, part: str, kind: str, prefix: str) -> dict[str, Tensor]:
    encoder = load_text_encoder(str(folder), part, kind, _precision(folder, part))
    state = {_file_name(name): weight for name, weight in encoder.state_dict().items()}
    if is_open_clip(encoder):
        place = prefix + OPEN_CLIP
        found = {place + name: weight for name, weight in _open_clip(state).items()}
        _check(part, state, convert_open_clip_checkpoint(encoder, dict(found), place))
    else:
        place = prefix + CLIP
        found = {place + name: weight for name, weight in state.items()}
        _check(part, state, convert_ldm_clip_checkpoint(dict(found)))
    return found


def _file_name(name: str) -> str:
    """Return the name that a weight of CLIP has in files; classes of transformers 5.6 drop a level of it."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a text encoder by the names of OpenCLIP."""
    table, layers = (DIFFUSERS_TO_LDM_MAPPING["openclip"][entry] for entry in ("layers", "transformer"))
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        if name in table:
            # OpenCLIP multiplies by its projection from the right.
            found[table[name]] = weight.T if name == "text_projection.weight" else weight
            continue
        layer, _, kind = name.rpartition(".")
        if layer.endswith(JOINED[0]):
            attention = layer.removesuffix(f".{JOINED[0]}")
            joined = torch.cat([state[f"{attention}.{each}.{kind}"] for each in JOINED])
            found[_open_clip_name(f"{attention}.in_proj_{kind}", layers)] = joined
        elif not layer.endswith(JOINED):
            found[_open_clip_name(name, layers)] = weight
    return found


def _open_clip_name(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return f"transformer.{name}"


def _precision(folder: Path, part: str) -> torch.dtype:
    """Return the precision in which a part is stored."""
    stored = StoredWeights(folder, part)
    return stored[next(iter(stored))].dtype


def _check(part: str, written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    """Check that diffusers reads what the student has.

    Raises:
        ValueError: it does not, since the student has layers that the original code has not.
    """
    if written.keys() != read.keys():
        different = sorted(written.keys() ^ read.keys())[0]
        raise ValueError(
            f"the {part} does not fit the original code, in which {different} is read differently"
        )
    for name, weight in written.items():
        if not torch.equal(weight, read[name]):
            raise ValueError(f"the {part} does not fit the original code: {name} would be read differently")
