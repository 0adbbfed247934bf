"""Whether a backbone's weights fit its configs, told from networks without memory and file headers.

Imports what a worker imports (seconds), so it comes after `backbone_files`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from workloads.backbones.backbone import NETWORK_CLASSES, load_schedule
from workloads.backbones.families import Family, family_of
from workloads.backbones.file_checks import config_name, read_json, weight_shapes
from workloads.backbones.safetensors_header import Shapes
from workloads.backbones.text_encoder import ENCODER_CLASSES


def check_shapes(source: str) -> Shapes:
    """Builds every network of the folder `source` on no device; returns the shapes of the one distilled.

    Raises:
        ValueError: weights are missing or do not fit, or the parts do not fit each other.
    """
    family = family_of(source)
    makers: dict[str, Callable[[Any], Any]] = {
        family.network: NETWORK_CLASSES[family.network].from_config,
        "vae": AutoencoderKL.from_config,
        **{part: encoder_maker(kind) for part, kind in family.text_encoders},
    }
    networks = {part: _built(source, part, make) for part, make in makers.items()}
    for part, network in networks.items():
        _compare(source, part, _shapes(network), weight_shapes(source, part))
    _check_joints(source, family, {part: network.config for part, network in networks.items()})
    load_schedule(source)
    return _shapes(networks[family.network])


def encoder_maker(kind: str) -> Callable[[Any], Any]:
    """What makes a text encoder of the class `kind` from its config."""
    encoder: Any = ENCODER_CLASSES[kind]
    return lambda config: encoder(encoder.config_class(**config))


def _built(source: str, part: str, make: Callable[[Any], Any]) -> Any:
    config = read_json(Path(source) / part / config_name(part), source)
    try:
        with torch.device("meta"):
            return make(config)
    except Exception as error:  # whatever the libraries raise for what a user's config says
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"backbone {source!r}: its {part}/config.json makes no network: {reason}") from None


def _shapes(network: Any) -> Shapes:
    """Of all weights that a file must hold: of those that are one with another, not."""
    tied = set(getattr(network, "_tied_weights_keys", None) or ())
    return {name: tuple(value.shape) for name, value in network.state_dict().items() if name not in tied}


def _compare(source: str, part: str, wanted: Shapes, found: Shapes) -> None:
    missing = sorted(set(wanted) - set(found))
    # Files of older versions name an autoencoder's layers, or all of a text encoder's, otherwise.
    renamed = part == "vae" or (part.startswith("text_encoder") and len(missing) == len(wanted))
    if missing and not renamed:
        raise ValueError(
            f"backbone {source!r}: its {part} lacks {len(missing)} of {len(wanted)} weights, as {missing[0]}"
        )
    for name in sorted(set(wanted) & set(found)):
        if wanted[name] != found[name]:
            raise ValueError(
                f"backbone {source!r}: its {part} has {name} of shape {list(found[name])} "
                f"where its config.json means {list(wanted[name])}"
            )


def _check_joints(source: str, family: Family, configs: dict[str, Any]) -> None:
    network = configs[family.network]
    width = network.cross_attention_dim if family.network == "unet" else network.caption_channels
    encoders = [configs[part] for part, _ in family.text_encoders]
    joints = {
        "text width": (width, sum(encoder.hidden_size for encoder in encoders)),
        "latent channels": (network.in_channels, configs["vae"].latent_channels),
    }
    if family.pooled:
        added = encoders[-1].projection_dim + 6 * network.addition_time_embed_dim
        joints["pooled width"] = (network.projection_class_embeddings_input_dim, added)
    for name, (wanted, found) in joints.items():
        if wanted != found:
            raise ValueError(
                f"backbone {source!r}: {name} of its {family.network} is {wanted}, of its other part {found}"
            )
    if not isinstance(network.sample_size, int):
        raise ValueError(f"backbone {source!r}: sample_size of its {family.network} is no whole number")
