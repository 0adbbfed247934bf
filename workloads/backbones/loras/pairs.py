"""Pairs of low-rank factors, read from a LoRA's file in any format.

The update of a layer is (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685, section 4.1); a pair holds A,
and B times the scale.

Shapes: r rank, `in` and `out` widths of a layer; convolutions have a window.
"""

import json
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.files import PEFT_CONFIG, Config, LoraFile
from workloads.backbones.loras.names import (
    ALPHA,
    DOWN,
    PEFT_PREFIX,
    UP,
    Place,
    other_kind,
    place_of,
    split_name,
)

HEADER_CONFIG = "lora_adapter_metadata"
"""Entry of a file's header in which diffusers keeps PEFT's settings, by component."""
_LITERAL = frozenset(string.ascii_letters + string.digits + "_.^$")
"""Characters of the names of layers, and of their beginning and end in a regular expression."""


@dataclass(frozen=True)
class Pair:
    """The update of one layer, W + up down, in float32."""

    stem: str
    """Name of the layer in the file."""
    place: Place
    down: Tensor
    """(r, in) or (r, in, window, window)."""
    up: Tensor
    """(out, r) or (out, r, 1, 1), times alpha / rank."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of one file, and what its header says about its origin."""

    path: str
    """The LoRA, as the sweep names it."""
    pairs: tuple[Pair, ...]
    header: Mapping[str, str]


def read_pairs(path: str, file: LoraFile) -> Pairs:
    """Read a file of the LoRA at `path`.

    Raises:
        ValueError: It is no safetensors file or no LoRA, is of another kind, has a name without a role, or
            its factors do not fit each other.
    """
    tensors, header = _read(path, file)
    factors = _by_stem(path, tensors)
    configs = _configs(path, file, header)
    pairs = [_pair(path, stem, roles, file, configs) for stem, roles in factors.items()]
    return Pairs(path, tuple(pairs), header)


def _read(path: str, file: LoraFile) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(file.path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except OSError as error:
        raise ValueError(f"lora {path!r}: {file.path} cannot be read: {one_line(error)}") from None
    except SafetensorError as error:
        raise ValueError(
            f"lora {path!r}: {file.path.name} is truncated or not a safetensors file ({one_line(error)}): "
            f"download it again"
        ) from None


def _by_stem(path: str, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by stem and role."""
    if kind := other_kind(tensors):
        raise ValueError(f"lora {path!r}: is {kind}, which is not supported: give a plain LoRA")
    roles = {name: split_name(name) for name in tensors}
    if not any(roles.values()):
        example = f", such as {min(tensors)}" if tensors else ""
        raise ValueError(
            f"lora {path!r}: is no LoRA: it has {len(tensors)} weights{example}, and no pair of low-rank "
            f"factors; a whole model is given as `model`"
        )
    found: dict[str, dict[str, Tensor]] = {}
    for name, role in roles.items():
        if role is None:
            raise ValueError(
                f"lora {path!r}: has {name}, which is no part of a LoRA: remove it from the file"
            )
        found.setdefault(role[0], {})[role[1]] = tensors[name]
    return found


def _configs(path: str, file: LoraFile, header: Mapping[str, str]) -> Mapping[str, Config]:
    """Return PEFT's settings by component; the key "" stands for all of them."""
    if file.config is not None:
        return {"": file.config}
    try:
        flat = json.loads(header.get(HEADER_CONFIG) or "{}")
        configs: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            part, _, name = key.rpartition(".")
            configs.setdefault(part, {})[name] = value
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"lora {path!r}: its header's {HEADER_CONFIG} is not a JSON object") from None
    return configs


def _pair(
    path: str, stem: str, roles: Mapping[str, Tensor], file: LoraFile, configs: Mapping[str, Config]
) -> Pair:
    if DOWN not in roles or UP not in roles:
        missing = "second" if DOWN in roles else "first"
        raise ValueError(f"lora {path!r}: its {stem} lacks the {missing} factor: the file is incomplete")
    place = place_of(stem)
    if file.part is not None:
        place = Place(file.part, place.layer, place.flat)
    if stem.startswith(PEFT_PREFIX) and file.config is None:
        raise ValueError(
            f"lora {path!r}: has PEFT's names without its {PEFT_CONFIG}, which states its alpha: name the "
            f"folder that has both"
        )
    down, up = roles[DOWN].float(), roles[UP].float()
    rank = _rank(path, stem, down, up)
    config = configs.get(place.part or "", configs.get(""))
    scale = _scale(path, stem, roles.get(ALPHA), place.layer, rank, config)
    if not (down.isfinite().all() and up.isfinite().all() and math.isfinite(scale)):
        raise ValueError(f"lora {path!r}: its {stem} has values that are not finite: its training diverged")
    return Pair(stem, place, down, up * scale)


def _rank(path: str, stem: str, down: Tensor, up: Tensor) -> int:
    if down.dim() < 2 or up.dim() < 2 or down.shape[0] != up.shape[1] or not len(down):
        raise ValueError(
            f"lora {path!r}: the factors of its {stem} have shapes {list(down.shape)} and {list(up.shape)}, "
            f"which have no common rank: the file is damaged"
        )
    return len(down)


def _scale(path: str, stem: str, alpha: Tensor | None, layer: str, rank: int, config: Config | None) -> float:
    """Return alpha / rank: of the file's own alpha, else of PEFT's settings, else 1, as diffusers has it."""
    if alpha is not None:
        if alpha.numel() != 1:
            raise ValueError(f"lora {path!r}: the alpha of its {stem} is no number: the file is damaged")
        return alpha.item() / rank
    if config is None:
        return 1.0
    if config.get("use_dora"):
        raise ValueError(f"lora {path!r}: is a DoRA, which is not supported: give a plain LoRA")
    stated = _stated(path, config, "r", "rank_pattern", layer)
    if stated != rank:
        raise ValueError(
            f"lora {path!r}: its {stem} has rank {rank}, where its settings say {stated:g}: copy file and "
            f"settings of one training"
        )
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return _stated(path, config, "lora_alpha", "alpha_pattern", layer) / root


def _stated(path: str, config: Config, name: str, patterns: str, layer: str) -> float:
    """Return a number of PEFT's settings: that of the pattern which ends a layer's name, else the general."""
    pattern = config.get(patterns) or {}
    if any(not set(key) <= _LITERAL for key in pattern):
        raise ValueError(
            f"lora {path!r}: its settings have a regular expression in {patterns}: write layers' names"
        )
    ends = (key for key in pattern if f".{layer}".endswith("." + key.lstrip("^").rstrip("$")))
    value = next((pattern[key] for key in ends), config.get(name))
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"lora {path!r}: its settings have no number {name}: copy its {PEFT_CONFIG} again")
    return float(value)


def matrix(factor: Tensor) -> Tensor:
    """Return a factor as a matrix: the window of a convolution is flattened."""
    return factor.flatten(1)


def delta(pair: Pair) -> Tensor:
    """Return up down, (out, in) or (out, in * window), in float32."""
    return torch.mm(matrix(pair.up), matrix(pair.down))
