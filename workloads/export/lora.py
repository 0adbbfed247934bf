"""A student as a LoRA of its base model, in the names of diffusers.

An adapter student has its adapters in a file of its folder, which are a LoRA already. Of a whole student, and
of one whose teacher has LoRAs too, the change of each layer is approximated by a product of low rank.

Names are PART.LAYER.lora_A.weight and PART.LAYER.lora_B.weight, and the scale of the LoRA is 1.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from workloads.backbones.backbone import load_network
from workloads.backbones.families import Family, family_of
from workloads.backbones.load_errors import one_line
from workloads.backbones.prompts.text_encoder import load_text_encoder
from workloads.export.changes import Change, StoredWeights, adaptable_shapes, changes, same_architecture
from workloads.export.low_rank import full_rank, low_rank, product
from workloads.students.origin import ADAPTERS, Origin

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
DEFAULT_RANK = 64
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Layers of a text encoder of CLIP that a LoRA of diffusers can have."""


class BaseModelError(ValueError):
    """The base model of a student cannot be opened, or is another one."""


@dataclass(frozen=True)
class PartEnergy:
    """Sums of squares of one part's change."""

    part: str
    layers: float
    """Change of linear and convolution layers."""
    kept: float
    """What the LoRA holds of it."""
    others: float
    """Change of biases, norms and other weights, which no LoRA can hold."""


@dataclass(frozen=True)
class Lora:
    """A LoRA of a student's base model, and how much of the student it holds."""

    tensors: dict[str, Tensor]
    """Factors by name: down (r, in) and up (out, r), or those shapes of a convolution."""
    rank: int
    """Largest rank of a layer."""
    exact: bool
    """True if it is what the student trained."""
    parts: tuple[PartEnergy, ...] = ()

    @property
    def kept(self) -> float:
        """Share of the student's change that it holds, from 0 to 1."""
        return 1.0 if self.exact else sum(part.kept for part in self.parts) / self._energy

    @property
    def others(self) -> float:
        """Share of the student's change in weights that no LoRA can hold, from 0 to 1."""
        return 0.0 if self.exact else sum(part.others for part in self.parts) / self._energy

    @property
    def _energy(self) -> float:
        return sum(part.layers + part.others for part in self.parts)


def student_lora(folder: Path, base: str, origin: Origin, rank: int | None = None) -> Lora:
    """Return a student as a LoRA of its base model.

    Args:
        folder: the student's folder.
        base: folder or hub id of the base model.
        origin: what the student was made from.
        rank: largest rank of a layer; None stands for the adapters' own, else for DEFAULT_RANK.

    Raises:
        BaseModelError: the base model cannot be opened, or has another architecture.
        ValueError: `rank` is too large, or no layer of the student differs from its base model.
    """
    family = family_of(str(folder))
    if not origin.adapters_are_of_base or not (folder / ADAPTERS).exists():
        network = _base_network(base, family, folder)
        _check_rank(rank, [full_rank(shape) for shape in adaptable_shapes(network)])
        return _truncated(_differences(family, folder, base, origin, network), rank or DEFAULT_RANK)
    adapters = load_file(folder / ADAPTERS)
    ranks = [len(tensor) for name, tensor in adapters.items() if name.endswith(DOWN)]
    _check_rank(rank, ranks)
    return (
        Lora(adapters, max(ranks), exact=True)
        if rank is None
        else _truncated(_products(family, adapters), rank)
    )


def _check_rank(rank: int | None, ranks: list[int]) -> None:
    """Check that a layer can have the `rank` that was asked for, given the largest `ranks` of layers."""
    if rank is not None and rank > max(ranks):
        raise ValueError(
            f"rank {rank} is above {max(ranks)}, the largest that a layer of the student can have"
        )


Found = Iterable[tuple[str, Change]]
"""Changes with the part that each belongs to."""


def _products(family: Family, tensors: dict[str, Tensor]) -> Found:
    """Yield the changes that adapters stand for."""
    for name in [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]:
        delta = product(tensors[name + DOWN], tensors[name + UP])
        yield family.network, Change(name.removeprefix(f"{family.network}."), delta, adaptable=True)


def _differences(family: Family, folder: Path, base: str, origin: Origin, network: nn.Module) -> Found:
    """Yield the differences of the student's weights from those of its base model, with that `network`."""
    stored = StoredWeights(folder, family.network)
    yield from ((family.network, change) for change in changes(network, stored))
    if origin.loras:
        for part, kind in family.text_encoders:
            yield from ((part, change) for change in _text_changes(folder, base, part, kind))


def _base_network(base: str, family: Family, folder: Path) -> nn.Module:
    """Return the network of the base model; it must have the layers of the student in `folder`."""
    try:
        if family_of(base) != family:
            raise BaseModelError(f"base model {base!r}: is no {family.pipeline}, as the student is")
        network = load_network(base, family, torch.float32)
    except BaseModelError:
        raise
    except ValueError as error:
        raise BaseModelError(f"base model {base!r} cannot be opened: {one_line(error)}") from None
    if not same_architecture(network, StoredWeights(folder, family.network)):
        raise BaseModelError(f"base model {base!r}: its {family.network} has other layers than the student's")
    return network


def _text_changes(folder: Path, base: str, part: str, kind: str) -> Iterator[Change]:
    before, after = (load_text_encoder(source, part, kind, torch.float32) for source in (base, str(folder)))
    for change in changes(before, after.state_dict()):
        adaptable = kind.startswith("CLIP") and change.name.endswith(TEXT_LAYERS)
        # The classes of transformers 5.6 and newer have this level no more, but every file has it.
        name = change.name if change.name.startswith("text_model.") else f"text_model.{change.name}"
        yield Change(name, change.delta, change.adaptable and adaptable)


def _truncated(found: Found, rank: int) -> Lora:
    """Approximate each change by a product of at most `rank`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors: dict[str, Tensor] = {}
    energies: dict[str, list[float]] = {}
    for part, change in found:
        sums = energies.setdefault(part, [0.0, 0.0, 0.0])
        if not change.adaptable:
            sums[2] += change.delta.double().square().sum().item()
            continue
        factors = low_rank(change.delta.to(device), rank)
        sums[0] += factors.energy
        sums[1] += factors.kept
        # In half precision, as the student's own weights.
        tensors[f"{part}.{change.name}{DOWN}"] = factors.down.half().cpu()
        tensors[f"{part}.{change.name}{UP}"] = factors.up.half().cpu()
    if not tensors:
        raise ValueError("no linear or convolution layer of the student differs from its base model")
    largest = max(len(tensor) for name, tensor in tensors.items() if name.endswith(DOWN))
    return Lora(tensors, largest, False, tuple(PartEnergy(part, *sums) for part, sums in energies.items()))
