"""Checks that a backbone's folder is complete and undamaged; reads no weights and imports no torch.

They take milliseconds. `shape_checks` then builds the networks and compares their shapes with the weights.
"""

import json
from pathlib import Path
from typing import Any

from workloads.backbones.families import Family, family_of
from workloads.backbones.weight_files import weight_shapes

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
        "vae": (family.autoencoder,),
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
