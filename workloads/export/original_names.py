"""Names of a UNet's and an autoencoder's layers in the original code of Stable Diffusion and SDXL.

diffusers reads files with these names (`diffusers.loaders.single_file_utils`) but writes none. Names that the
reader keeps in a table are looked up in it; those that it computes are computed the other way round here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

UNET_TABLE: dict[str, str] = {
    **DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"],
    **DIFFUSERS_TO_LDM_MAPPING["unet"]["addition_embed_type"],
}
AUTOENCODER_TABLE: dict[str, str] = DIFFUSERS_TO_LDM_MAPPING["vae"]
RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
"""Layers of a residual block of the UNet."""
ATTENTION_PARTS = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
"""Layers of the attention in the middle of the autoencoder."""
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class UNetLayout:
    """Structure of a UNet, as far as names depend on it."""

    layers: int
    """Layers in each block."""
    attended: tuple[bool, ...]
    """For each block of the upward half, whether it has attention."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "UNetLayout":
        """Return the structure that a UNet's config describes.

        Raises:
            ValueError: its blocks have different numbers of layers.
        """
        layers = config["layers_per_block"]
        if not isinstance(layers, int):
            raise ValueError("the UNet has blocks of different depths, which the original code has not")
        return cls(layers, tuple("Attn" in kind for kind in config["up_block_types"]))


def unet_weight(name: str, layout: UNetLayout) -> str:
    """Return the original name of a weight of a UNet, without the prefix of the network.

    Raises:
        KeyError: the name is of no layer that the original UNet has.
    """
    if name in UNET_TABLE:
        return UNET_TABLE[name]
    if match := MIDDLE.fullmatch(name):
        kind, number, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    if match := BLOCK.fullmatch(name):
        way, block, kind, number, rest = match.groups()
        return _block_weight(way, int(block), kind, int(number), rest, layout)
    raise KeyError(name)


def _block_weight(way: str, block: int, kind: str, number: int, rest: str, layout: UNetLayout) -> str:
    """Return the original name of a weight below `down_blocks` or `up_blocks`.

    The original code counts layers through all blocks. Downwards, layer 0 is the first convolution, and a
    downsampler is a layer of its own; upwards, an upsampler is the last entry of its block's last layer.
    """
    first = block * (layout.layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{1 + first + layout.layers}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        entry = 2 if layout.attended[block] else 1
        return f"output_blocks.{first + layout.layers}.{entry}.{rest}"
    place = (
        f"input_blocks.{1 + first + int(number)}" if way == "down" else f"output_blocks.{first + int(number)}"
    )
    return f"{place}.1.{rest}" if kind == "attentions" else f"{place}.0.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    layer, _, kind = rest.rpartition(".")
    return f"{RESNET_PARTS[layer]}.{kind}"


def unet_layer(name: str, layout: UNetLayout) -> str:
    """Return the original name of a layer of a UNet, given its name in diffusers; see `unet_weight`."""
    return unet_weight(f"{name}.weight", layout).removesuffix(".weight")


def autoencoder_weight(name: str, blocks: int) -> str:
    """Return the original name of a weight of an autoencoder with that many `blocks` in each half.

    Raises:
        KeyError: the name is of no layer that the original autoencoder has.
    """
    if name in AUTOENCODER_TABLE:
        return AUTOENCODER_TABLE[name]
    half, _, rest = name.partition(".")
    if match := MIDDLE.fullmatch(rest):
        kind, number, layer = match.groups()
        if kind == "resnets":
            return f"{half}.mid.block_{int(number) + 1}.{_autoencoder_resnet(layer)}"
        part, _, weight = layer.rpartition(".")
        return f"{half}.mid.attn_1.{ATTENTION_PARTS[part]}.{weight}"
    if match := BLOCK.fullmatch(rest):
        way, block, kind, number, layer = match.groups()
        # Upwards the original code counts blocks from the end.
        place = f"{half}.{way}.{block if way == 'down' else blocks - 1 - int(block)}"
        if kind.endswith("samplers"):
            return f"{place}.{way}sample.{layer}"
        return f"{place}.block.{number}.{_autoencoder_resnet(layer)}"
    raise KeyError(name)


def _autoencoder_resnet(layer: str) -> str:
    return layer.replace("conv_shortcut", "nin_shortcut")
