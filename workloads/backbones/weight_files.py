"""Weights of a part of a pipeline folder: which safetensors files hold them, and under which variant.

Published folders have them in one file or in shards with an index, and some as a variant alone, such as
`diffusion_pytorch_model.fp16.safetensors`, which loaders open on request only. Imports no torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from workloads.backbones.load_errors import one_line

Shapes = dict[str, tuple[int, ...]]
"""Shape of each weight, by name."""
VARIANTS = (None, "fp16", "bf16")
"""Variants that hold the same weights in another precision, in the order in which they are looked for."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class WeightFiles:
    """Files with all weights of one part."""

    files: tuple[Path, ...]
    variant: str | None
    index: Path | None = None
    """File that maps each weight to its shard; None for one file."""

    def plain_name(self, path: Path) -> str:
        """Return the name of a file or of the index without the variant."""
        return path.name if self.variant is None else path.name.replace(f".{self.variant}", "", 1)


def find_weights(source: str, part: str) -> WeightFiles:
    """Return the weights of `part` in the pipeline folder `source`.

    Raises:
        ValueError: There are none as safetensors, or the index of their shards is invalid.
    """
    folder = Path(source) / part
    encoder = part.startswith("text_encoder")
    name = "model" if encoder else "diffusion_pytorch_model"
    for variant in VARIANTS:
        dotted = "" if variant is None else f".{variant}"
        single, index = (
            folder / f"{name}{dotted}.safetensors",
            folder / f"{name}.safetensors.index{dotted}.json",
        )
        # Where there are both, transformers opens the one file and diffusers the shards.
        if single.exists() and (encoder or not index.exists()):
            return WeightFiles((single,), variant)
        if index.exists():
            return WeightFiles(_shards(source, index), variant, index)
    raise ValueError(f"backbone {source!r}: its {part} has no {name}.safetensors{_found_instead(folder)}")


def weight_shapes(source: str, part: str) -> Shapes:
    """Return the names and shapes of a part's weights.

    Raises:
        ValueError: The weights are missing, not in safetensors, or truncated.
    """
    shapes: Shapes = {}
    for file in find_weights(source, part).files:
        try:
            with safe_open(file, "numpy") as weights:
                names = list(weights.keys())
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in names}
        except OSError as error:
            raise ValueError(f"backbone {source!r}: {file} cannot be read: {one_line(error)}") from None
        except SafetensorError as error:
            raise ValueError(
                f"backbone {source!r}: {file} is truncated or not a safetensors file "
                f"({one_line(error)}): download it again"
            ) from None
    return shapes


def _shards(source: str, index: Path) -> tuple[Path, ...]:
    name = index.relative_to(source).as_posix()
    try:
        shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
    except (OSError, ValueError, RecursionError, AttributeError):
        raise ValueError(f"backbone {source!r}: its {name} is not a readable JSON object") from None
    if not isinstance(shards, dict) or not all(map(_is_safetensors, shards.values())):
        raise ValueError(f"backbone {source!r}: its {name} has no weight_map to safetensors files beside it")
    return tuple(index.parent / shard for shard in sorted(set(shards.values())))


def _is_safetensors(name: object) -> bool:
    """Return True for the name of such a file without a folder."""
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def _found_instead(folder: Path) -> str:
    """Name a file found instead of the weights, and describe what to do about it."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if others:
        return (
            f" but {others[0]}: open the pipeline with diffusers (variant=... for weights of another name) "
            f"and save it with save_pretrained(...)"
        )
    if pickles:
        return (
            f" but {pickles[0]}, a pickle, which can run any code when it is opened: if you trust it, load "
            f"the pipeline with diffusers and save it with save_pretrained(..., safe_serialization=True)"
        )
    return ""
