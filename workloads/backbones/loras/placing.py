"""Places of a LoRA's updates: which weight of which component each of them changes.

Nothing is left out: an update without a place, or that does not fit there, is an error that says which model
the LoRA seems to be for. Names that tell no component, as those of PEFT, belong to the one that has them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workloads.backbones.families import Family
from workloads.backbones.loras.names import NETWORK, LayerNames
from workloads.backbones.loras.original_names import converted
from workloads.backbones.loras.other_bases import guess
from workloads.backbones.loras.pairs import Pair, Pairs, delta
from workloads.backbones.weight_files import Shapes

Parts = Mapping[str, Shapes]
"""Shapes of weights by name, of some components of a pipeline or of all."""


@dataclass(frozen=True)
class Update:
    """What a LoRA adds to one weight of a component."""

    name: str
    """Name of the weight."""
    pair: Pair
    weight: float
    """Factor of the update."""

    def add_to(self, value: Tensor) -> Tensor:
        """Return the weight `value` with the update, in float32 and on the CPU."""
        return value.float().cpu() + self.weight * delta(self.pair).view_as(value)


def lora_parts(family: Family) -> tuple[str, ...]:
    """Return the components of a family's pipelines that a LoRA may update."""
    return (family.network, *(part for part, _ in family.text_encoders))


def place(found: Pairs, weight: float, family: Family, parts: Parts) -> dict[str, list[Update]]:
    """Return the updates of a file by component, for the components in `parts`.

    Args:
        found: the file's pairs.
        weight: factor of its updates.
        family: of the pipeline.
        parts: shapes of the components. If these are all of `lora_parts`, every pair must have a place.

    Raises:
        ValueError: A pair has no place, or does not fit its place, or may have several.
    """
    groups: dict[str | None, list[Pair]] = {}
    for pair in found.pairs:
        part = family.network if pair.place.part == NETWORK else pair.place.part
        groups.setdefault(part, []).append(pair)
    placed = _place_bare(found, groups.pop(None, []), weight, family, parts)
    for part, pairs in groups.items():
        if part not in lora_parts(family):
            raise _error(
                found, f"has weights of {part}, which {family.pipeline} lacks{guess(found)}: {_OTHER}"
            )
        if part in parts:
            placed.setdefault(str(part), []).extend(_fitting(found, pairs, weight, family, str(part), parts))
    return placed


_OTHER = "give a LoRA of this backbone"


def _place_bare(
    found: Pairs, pairs: Sequence[Pair], weight: float, family: Family, parts: Parts
) -> dict[str, list[Update]]:
    """Place pairs whose names tell no component in the one that has them all."""
    placed: dict[str, list[Update]] = {}
    errors: list[ValueError] = []
    for part in parts if pairs else ():
        try:
            placed[part] = _fitting(found, pairs, weight, family, part, parts)
        except ValueError as error:
            errors.append(error)
    if len(placed) > 1:
        raise _error(
            found,
            f"its names fit {' and '.join(placed)} of the backbone: put it into a folder of that name, and "
            f"name the folder above",
        )
    if errors and not placed and parts.keys() == set(lora_parts(family)):
        raise errors[0]
    return placed


def _fitting(
    found: Pairs, pairs: Sequence[Pair], weight: float, family: Family, part: str, parts: Parts
) -> list[Update]:
    """Return the updates of one component, which has a layer for each of them."""
    names, shapes = LayerNames(parts[part]), parts[part]
    updates, rest = _split(pairs, weight, names)
    if rest and part == family.network:
        renamed = converted(rest, family, shapes)
        more, unknown = _split(renamed, weight, names)
        # Fewer pairs than before: the library has left some out.
        if len(renamed) >= len(rest) and not unknown:
            updates, rest = [*updates, *more], []
    if rest:
        count = f"{len(rest)} of its {len(pairs)} layers"
        raise _error(
            found, f"{family.pipeline} has no {rest[0].stem} ({count} are unknown{guess(found)}): {_OTHER}"
        )
    for update in updates:
        _check_shape(found, update, part, shapes[update.name])
    return updates


def _split(pairs: Sequence[Pair], weight: float, names: LayerNames) -> tuple[list[Update], list[Pair]]:
    """Return the updates of the layers that a component has, and the pairs of those that it lacks."""
    layers = [(names.weight(pair.place), pair) for pair in pairs]
    updates = [Update(name, pair, weight) for name, pair in layers if name is not None]
    return updates, [pair for name, pair in layers if name is None]


def _check_shape(found: Pairs, update: Update, part: str, shape: tuple[int, ...]) -> None:
    pair = update.pair
    made = (len(pair.up), *pair.down.shape[1:])
    if _squeezed(made) != _squeezed(shape) or pair.up[0].numel() != len(pair.down):
        raise _error(
            found,
            f"its {pair.stem} is for weights of shape {list(made)}, but those of the {part} have "
            f"{list(shape)}{guess(found)}: {_OTHER}",
        )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without a window of 1 x 1: some tools treat linear layers as such convolutions."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _error(found: Pairs, text: str) -> ValueError:
    return ValueError(f"lora {found.path!r}: {text}")
