"""How the weights of a student differ from those of its base model, layer by layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from workloads.backbones.weight_files import find_weights


@dataclass(frozen=True)
class Change:
    """The change of one weight."""

    name: str
    """Name of the layer if it can have a LoRA, else of the weight."""
    delta: Tensor
    """Student minus base, in float32 and in the shape of the weight."""
    adaptable: bool
    """True for the weight of a linear or convolution layer: a LoRA can hold it."""


class StoredWeights(Mapping[str, Tensor]):
    """Weights of one part of a pipeline folder, read from its files one at a time."""

    def __init__(self, folder: Path, part: str) -> None:
        """Open the files.

        Raises:
            ValueError: there are none in safetensors.
        """
        files: list[Any] = [safe_open(file, "pt") for file in find_weights(str(folder), part).files]
        self._places = {name: file for file in files for name in list(file.keys())}

    def __getitem__(self, name: str) -> Tensor:
        """Return a weight, in the precision of the file."""
        tensor: Tensor = self._places[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight without reading it."""
        return tuple(self._places[name].get_slice(name).get_shape())


def is_adaptable(layer: nn.Module) -> bool:
    """Return True for layers whose change a LoRA can hold; not for convolutions in groups."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def adaptable_shapes(network: nn.Module) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of all layers whose change a LoRA can hold."""
    layers: list[Any] = [layer for layer in network.modules() if is_adaptable(layer)]
    return [tuple(layer.weight.shape) for layer in layers]


def same_architecture(base: nn.Module, student: StoredWeights) -> bool:
    """Return True if both have the same weights, by name and shape."""
    return {name: tuple(weight.shape) for name, weight in base.state_dict().items()} == {
        name: student.shape(name) for name in student
    }


@torch.no_grad()
def changes(base: nn.Module, student: Mapping[str, Tensor]) -> Iterator[Change]:
    """Yield the change of each weight that differs in the precision in which the student is stored."""
    layers = {name for name, layer in base.named_modules() if is_adaptable(layer)}
    for name, weight in base.state_dict().items():
        other = student[name]
        if torch.equal(weight.to(other.dtype), other):
            continue
        layer = name.removesuffix(".weight")
        adaptable = layer != name and layer in layers
        yield Change(layer if adaptable else name, other.float() - weight.float(), adaptable)
