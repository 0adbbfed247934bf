"""Checks that a backbone's weights fit its configs, and that all of its small parts open.

Networks are built on the meta device and compared with the headers of the files of weights. Imports torch,
diffusers and transformers (seconds), so it runs after `file_checks`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from workloads.backbones.autoencoders import AUTOENCODERS, latent_size
from workloads.backbones.backbone import load_schedule, network_kind
from workloads.backbones.families import Family, family_of
from workloads.backbones.file_checks import config_name, read_json
from workloads.backbones.load_errors import one_line
from workloads.backbones.prompts.prompt_states import KLEIN_LAYERS
from workloads.backbones.prompts.text_encoder import ENCODER_CLASSES, load_tokenizer
from workloads.backbones.teacher_pipeline import load_scheduler
from workloads.backbones.weight_files import Shapes, weight_shapes

_UNSUPPORTED = (("unet", "time_cond_proj_dim"), ("vae", "latents_mean"), ("vae", "latents_std"))
"""Entries of configs by which stock pipelines compute more than is computed here: an embedding of the
guidance scale (LCM), and latents that are normalised per channel (Playground v2.5)."""

TEXT_WIDTHS: dict[str, Callable[[Sequence[Any]], int]] = {
    "clip": lambda encoders: encoders[0].hidden_size,
    "sdxl": lambda encoders: sum(encoder.hidden_size for encoder in encoders),
    "t5": lambda encoders: encoders[0].hidden_size,
    "gemma": lambda encoders: encoders[0].hidden_size,
    "sd3": lambda encoders: encoders[-1].hidden_size,
    "qwen3_layers": lambda encoders: len(KLEIN_LAYERS) * encoders[0].hidden_size,
    "qwen3": lambda encoders: encoders[0].hidden_size,
}
"""Width of the embeddings that each encoding makes, given the configs of its text encoders."""
POOLED_WIDTHS: dict[str, Callable[[Sequence[Any]], int]] = {
    "sdxl": lambda encoders: encoders[-1].projection_dim,
    "sd3": lambda encoders: sum(encoder.projection_dim for encoder in encoders[:-1]),
}
"""Width of the pooled embedding, as above."""


def check_shapes(source: str) -> Shapes:
    """Check the weights and configs of the folder `source`; return the shapes of the distilled network.

    Raises:
        ValueError: Weights are missing or do not fit, the components do not fit each other, or a tokenizer
            or the scheduler does not open.
    """
    family = family_of(source)
    network: Any = network_kind(family).model
    autoencoder: Any = AUTOENCODERS[family.autoencoder].model
    makers: dict[str, Callable[[Any], Any]] = {
        family.network: network.from_config,
        "vae": autoencoder.from_config,
        **{part: encoder_constructor(kind) for part, kind in family.text_encoders},
    }
    networks = {part: _build(source, part, make) for part, make in makers.items()}
    for part, entry in _UNSUPPORTED:
        if part in networks and networks[part].config.get(entry) is not None:
            raise ValueError(f"backbone {source!r}: its {part} has {entry}, which is not supported")
    for part, network in networks.items():
        _check_weights(source, part, _required_shapes(network), weight_shapes(source, part))
    _check_interfaces(source, family, {part: network.config for part, network in networks.items()})
    for part in family.tokenizers:
        load_tokenizer(source, part)
    load_schedule(source)
    load_scheduler(source)
    return _required_shapes(networks[family.network])


def encoder_constructor(kind: str) -> Callable[[Any], Any]:
    """Return a function that builds a text encoder of the class `kind` from its config."""
    encoder: Any = ENCODER_CLASSES[kind]
    return lambda config: encoder(encoder.config_class(**config))


def _build(source: str, part: str, make: Callable[[Any], Any]) -> Any:
    config = read_json(Path(source) / part / config_name(part), source)
    try:
        with torch.device("meta"):
            return make(config)
    except Exception as error:  # the libraries raise many kinds for invalid configs
        raise ValueError(
            f"backbone {source!r}: no network can be built from its {part}/config.json: {one_line(error)}"
        ) from None


def _required_shapes(network: Any) -> Shapes:
    """Return the shapes of all weights that a file must contain, which excludes tied ones."""
    tied = set(getattr(network, "_tied_weights_keys", None) or ())
    return {name: tuple(value.shape) for name, value in network.state_dict().items() if name not in tied}


def _check_weights(source: str, part: str, wanted: Shapes, found: Shapes) -> None:
    missing = sorted(set(wanted) - set(found))
    # Files of older versions have other names for an autoencoder's layers, or all of a text encoder's.
    renamed = part == "vae" or (part.startswith("text_encoder") and len(missing) == len(wanted))
    if missing and not renamed:
        raise ValueError(
            f"backbone {source!r}: its {part} lacks {len(missing)} of {len(wanted)} weights, "
            f"such as {missing[0]}"
        )
    for name in sorted(set(wanted) & set(found)):
        if wanted[name] != found[name]:
            raise ValueError(
                f"backbone {source!r}: its {part} has {name} of shape {list(found[name])} "
                f"where its config.json implies {list(wanted[name])}"
            )


def _check_interfaces(source: str, family: Family, configs: dict[str, Any]) -> None:
    """Check the sizes on which the network and the other components must agree."""
    network, autoencoder, kind = configs[family.network], configs["vae"], network_kind(family)
    encoders = [configs[part] for part, _ in family.text_encoders]
    latents = AUTOENCODERS[family.autoencoder]
    sizes = {
        "text width": (kind.text_width(network), TEXT_WIDTHS[family.encoding](encoders)),
        "latent channels": (network.in_channels, latents.channels(autoencoder)),
    }
    if family.pooled:
        sizes["pooled width"] = (kind.pooled_width(network), POOLED_WIDTHS[family.encoding](encoders))
    for name, (wanted, found) in sizes.items():
        if wanted != found:
            raise ValueError(
                f"backbone {source!r}: its {family.network} has {name} {wanted}, but its other components "
                f"have {found}"
            )
    try:
        latent_size(network, autoencoder, latents)
    except ValueError as error:
        raise ValueError(f"backbone {source!r}: {error} in the config of its {family.network}") from None
