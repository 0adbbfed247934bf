"""Checks that a backbone's folder is complete and undamaged; reads no weights and imports no torch.

They take milliseconds. `shape_checks` then builds the networks and compares their shapes with the weights.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from workloads.backbones.families import Family, family_of
from workloads.backbones.load_errors import one_line

Shapes = dict[str, tuple[int, ...]]
"""Shape of each weight, by name."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def check_files(source: str) -> None:
    """Check every component of the folder `source` that a sweep opens.

    Raises:
        ValueError: A component is missing, of another class, pickled or truncated.
    """
    family = family_of(source)
    folder = Path(source)
    index = read_json(folder / "model_index.json", source)
    for part, classes in _component_classes(family).items():
        listed = index.get(part)
        if not isinstance(listed, list) or len(listed) != 2 or listed[1] is None:
            raise ValueError(f"backbone {source!r}: its model_index.json lists no {part}")
        _check_class(source, part, listed[1], classes)
        if part in family.tokenizers:
            _check_tokenizer(folder / part, source)
            continue
        config = read_json(folder / part / config_name(part), source)
        _check_class(source, part, config.get("_class_name"), classes)
        if part != "scheduler":
            weight_shapes(source, part)


def _component_classes(family: Family) -> dict[str, tuple[str, ...]]:
    """Return the components that a sweep opens, with their accepted classes; empty: any class."""
    return {
        family.network: family.network_classes,
        **{part: (kind,) for part, kind in family.text_encoders},
        "vae": ("AutoencoderKL",),
        "scheduler": (),
        **dict.fromkeys(family.tokenizers, ()),
    }


def config_name(part: str) -> str:
    """Return the name of a component's config file."""
    return "scheduler_config.json" if part == "scheduler" else "config.json"


def read_json(path: Path, source: str) -> dict[str, Any]:
    """Read the file `path`, a JSON object, of the backbone's folder `source`.

    Raises:
        ValueError: The file is missing, unreadable or not a JSON object.
    """
    name = path.relative_to(source).as_posix()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"backbone {source!r}: its {name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"backbone {source!r}: its {name} is not valid JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"backbone {source!r}: its {name} is not a JSON object")
    return found


def weight_shapes(source: str, part: str) -> Shapes:
    """Return the names and shapes of a component's weights.

    Raises:
        ValueError: The weights are missing, not in safetensors, or truncated.
    """
    shapes: Shapes = {}
    for file in _weight_files(source, part):
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


def _weight_files(source: str, part: str) -> list[Path]:
    folder = Path(source) / part
    transformers = part.startswith("text_encoder")
    name = f"{'model' if transformers else 'diffusion_pytorch_model'}.safetensors"
    if (folder / name).exists():
        return [folder / name]
    index = folder / f"{name}.index.json"
    if index.exists():
        shards = read_json(index, source).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"backbone {source!r}: its {part}/{index.name} has no weight_map")
        return [folder / shard for shard in sorted(set(shards.values()))]
    raise ValueError(f"backbone {source!r}: its {part} has no {name}{_found_instead(folder)}")


def _found_instead(folder: Path) -> str:
    """Name a file found instead of the weights, and describe what to do about it."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    variants = [name for name in names if name.endswith(".safetensors")]
    if variants:
        return f" but {variants[0]}: rename it"
    if pickles:
        return (
            f" but {pickles[0]}, a pickle, which can run any code when it is opened: if you trust it, load "
            f"the pipeline with diffusers and save it with save_pretrained(..., safe_serialization=True)"
        )
    return ""


def _check_class(source: str, part: str, found: object, classes: tuple[str, ...]) -> None:
    if classes and found is not None and found not in classes:
        raise ValueError(f"backbone {source!r}: its {part} is a {found}; supported is {classes[0]}")


def _check_tokenizer(folder: Path, source: str) -> None:
    present = [name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not present:
        raise ValueError(f"backbone {source!r}: its tokenizer has none of {', '.join(TOKENIZER_FILES)}")
    for name in present:
        if name.endswith(".json"):
            read_json(folder / name, source)
