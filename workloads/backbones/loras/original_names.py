"""Names of layers that are not diffusers' own: they are converted by the pipeline's own class in diffusers.

Tools that train on a model's original code name its layers in that way: kohya's SDXL, and those of FLUX.2 and
Z-Image. A pair may become several there, where diffusers has split a layer.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
from torch import Tensor

from workloads.backbones.families import Family
from workloads.backbones.loras.names import DOWN, UP, place_of, split_name
from workloads.backbones.loras.pairs import Pair
from workloads.backbones.weight_files import Shapes


def converted(pairs: Sequence[Pair], family: Family, shapes: Shapes) -> list[Pair]:
    """Return `pairs` under the names of diffusers; empty if the pipeline's class does not know theirs.

    Args:
        pairs: updates of the distilled network, under other names.
        family: of the pipeline.
        shapes: of the network's weights.
    """
    convert = getattr(getattr(diffusers, family.pipeline), "lora_state_dict", None)
    if convert is None:
        return []
    options = {"unet_config": _config(shapes)} if family.network == "unet" else {}
    try:
        found = convert(_tensors(pairs), **options)
    except Exception:  # of many kinds, for names that it does not know
        return []
    named: Mapping[str, Tensor] = found[0] if isinstance(found, tuple) else found
    return _paired(named)


def _tensors(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pair in pairs:
        down, up = ("lora_down", "lora_up") if pair.place.flat else ("lora_A", "lora_B")
        tensors |= {f"{pair.stem}.{down}.weight": pair.down, f"{pair.stem}.{up}.weight": pair.up}
    return tensors


def _config(shapes: Shapes) -> Any:
    """Return the part of a UNet's config from which the numbers of its blocks follow."""
    first = {name.split(".")[3] for name in shapes if name.startswith("down_blocks.0.resnets.")}
    return SimpleNamespace(layers_per_block=len(first))


def _paired(tensors: Mapping[str, Tensor]) -> list[Pair]:
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        stem, role = split_name(name) or (name, "")
        factors.setdefault(stem, {})[role] = tensor
    return [
        Pair(stem, place_of(stem), roles[DOWN], roles[UP])
        for stem, roles in factors.items()
        if roles.keys() == {DOWN, UP}
    ]
