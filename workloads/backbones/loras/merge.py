"""Merging of a teacher's LoRAs into its weights: W + weight (alpha / rank) B A, computed in float32.

`merged` opens a component with its updates, `merge_into_files` adds them to a copy of a component's files,
and `check_loras` checks that every update of every LoRA has a place.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workloads.backbones.families import family_of
from workloads.backbones.loras.entry import Lora
from workloads.backbones.loras.files import find_files
from workloads.backbones.loras.pairs import read_pairs
from workloads.backbones.loras.placing import Parts, Update, lora_parts, place
from workloads.backbones.weight_files import Shapes, find_weights, weight_shapes

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def merged(
    open_at: Callable[[torch.dtype], Model], source: str, part: str, loras: Sequence[Lora], dtype: torch.dtype
) -> Model:
    """Open the component `part` of `source` in precision `dtype`, with `loras` merged into it.

    Args:
        open_at: opens it in a precision.
        source: folder or hub id of the pipeline.
        part: name of the component.
        loras: of the teacher.
        dtype: precision of the result. Updates are added to weights in float32, which are rounded once.

    Raises:
        ValueError: A LoRA cannot be read, or does not fit the component.
    """
    model = open_at(dtype)
    weights = dict(model.named_parameters())
    updates = _by_weight(updates_of(source, part, shapes_of(model), loras))
    if updates:
        exact = weights if dtype == torch.float32 else dict(open_at(torch.float32).named_parameters())
        for name, of_weight in updates.items():
            weights[name].copy_(_sum(exact[name], of_weight))
    return model


def updates_of(source: str, part: str, shapes: Shapes, loras: Sequence[Lora]) -> list[Update]:
    """Return the updates of the component `part` of `source`, whose weights have these `shapes`.

    Raises:
        ValueError: A LoRA cannot be read, or does not fit the component.
    """
    return _all_updates(source, loras, {part: shapes}).get(part, [])


def check_loras(source: str, loras: Sequence[Lora], parts: Parts | None = None) -> None:
    """Check that every update of every LoRA has one place in the pipeline `source`.

    Args:
        source: folder or hub id of the pipeline.
        loras: of the teacher.
        parts: shapes of all components of `lora_parts`; None: those of the folder `source`.

    Raises:
        ValueError: A LoRA cannot be read, or has an update without a place or with several.
    """
    if parts is None:
        parts = {part: weight_shapes(source, part) for part in lora_parts(family_of(source))}
    _all_updates(source, loras, parts)


def merge_into_files(folder: Path, part: str, source: str, loras: Sequence[Lora]) -> None:
    """Add the updates of a component to the files of weights in `folder`/`part`, in the files' own precision.

    Raises:
        ValueError: A LoRA cannot be read, or does not fit the component.
    """
    updates = _by_weight(updates_of(source, part, weight_shapes(str(folder), part), loras))
    for file in find_weights(str(folder), part).files if updates else ():
        tensors = load_file(file)
        changed = {name: _sum(tensors[name], updates[name]) for name in updates.keys() & tensors}
        rounded = {name: value.to(tensors[name].dtype) for name, value in changed.items()}
        with safe_open(file, "pt") as opened:
            header = opened.metadata()
        save_file({**tensors, **rounded}, file, header)


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shapes of a component's weights by name."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _all_updates(source: str, loras: Sequence[Lora], parts: Parts) -> dict[str, list[Update]]:
    found: dict[str, list[Update]] = {}
    for lora in loras:
        for file in find_files(lora.path):
            pairs = read_pairs(lora.path, file)
            for part, updates in place(pairs, lora.weight, family_of(source), parts).items():
                found.setdefault(part, []).extend(updates)
    return found


def _by_weight(updates: Sequence[Update]) -> Mapping[str, list[Update]]:
    by_weight: dict[str, list[Update]] = {}
    for update in updates:
        by_weight.setdefault(update.name, []).append(update)
    return by_weight


def _sum(value: Tensor, updates: Sequence[Update]) -> Tensor:
    for update in updates:
        value = update.add_to(value)
    return value
