"""What a backbone is made of, told without its weights: configs, shipped here for published ones.

The shipped folders hold of each config.json what makes the architecture, as published. Nothing
here is slow to import.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from workloads.backbones.families import Family, family_of
from workloads.backbones.file_checks import read_json

SHIPPED = Path(__file__).parent
PUBLISHED: dict[str, tuple[str, int | None]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd15", None),
    "stabilityai/stable-diffusion-2-1-base": ("sd21-base", None),
    "stabilityai/stable-diffusion-2-1": ("sd21-base", 96),
    "stabilityai/sd-turbo": ("sd21-base", None),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", None),
    "PixArt-alpha/PixArt-XL-2-512x512": ("pixart-512", None),
}
"""Id on the hub: shipped folder, and the latent size where it is another than that folder's."""


@dataclass(frozen=True)
class Architecture:
    """The configs that are needed to build a backbone's networks, as JSON."""

    family: Family
    network: str
    """Of the network that is distilled."""
    autoencoder: str


@lru_cache(maxsize=256)
def architecture_of(source: str) -> Architecture | None:
    """Of a pipeline folder, of a hub id in the local cache, or of a published one.

    None where nothing can be known, or a config is spoilt: `backbone_files` says how. Nothing is
    downloaded.
    """
    name, latents = PUBLISHED.get(source, (None, None))
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
    if latents is not None:
        network["sample_size"] = latents
    return Architecture(family, json.dumps(network), json.dumps(autoencoder))


def _local(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    try:
        index = try_to_load_from_cache(source, "model_index.json")
    except ValueError:  # not the form of an id
        return None
    return Path(index).parent if isinstance(index, str) else None
