"""One-line messages for pydantic's validation errors: which setting is wrong, and what to do about it."""

import difflib
import reprlib
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.config.renamed_settings import remedy
from orchestrator.config.yaml_source import KeyPath

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80


def explain(error: ValidationError, root: Any, data: Any) -> tuple[KeyPath, str]:
    """Return the path of the wrong setting below `root`, and a message about it.

    Args:
        error: raised when `data` was validated.
        root: model or dataclass that `data` does not fit.
    """
    first = _most_specific(error)
    at = _path_in_data(first["loc"], data, first["type"] == "missing")
    if first["type"] in UNKNOWN_KEY and (known_remedy := remedy(at)):
        return at, known_remedy
    if first["type"] in UNKNOWN_KEY:
        known = [name for name, _ in _members(_model_at(root, at[:-1]))]
        near = difflib.get_close_matches(str(at[-1])[:64], known, n=1, cutoff=0)
        return at, "unknown key" + (f"; the nearest valid one is {near[0]!r}" if near else "")
    if first["type"] == "missing":
        return at, "this setting is required: add it"
    if isinstance(first["input"], bool) and first["type"] != "value_error":
        value = str(first["input"]).lower()
        message = f"is {value} (YAML reads yes, no, on and off as booleans): give a number, or quote the text"
        return at, message
    if first["type"] == "value_error":
        return _split_setting(root, at, first["msg"].removeprefix("Value error, "))
    message = first["msg"].replace("an object", "a mapping").replace("array", "list")
    shown = "" if ", not " in message else f", not {SHORT.repr(first['input'])}"
    return at, f"{message[:1].lower()}{message[1:]}{shown}"


def _most_specific(error: ValidationError) -> Any:
    """Return the first unknown key, else the first error: a misspelt key also makes one that is missing."""
    unknown = [each for each in error.errors() if each["type"] in UNKNOWN_KEY]
    return (unknown or error.errors())[0]


def _path_in_data(loc: tuple[str | int, ...], data: Any, missing: bool) -> KeyPath:
    """Return `loc` without the parts that pydantic adds to it (the branch of a union, for example)."""
    at: list[str | int] = []
    for part in loc[:-1] if missing else loc:
        inside = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside or (isinstance(data, dict) and part in data):
            data = data[part]
            at.append(part)
    return (*at, loc[-1]) if missing else tuple(at)


def _split_setting(root: Any, at: KeyPath, message: str) -> tuple[KeyPath, str]:
    """Split a section's own message, which begins with a setting of the section, into path and rest."""
    name, _, rest = message.partition(" ")
    path = name.split(".")
    known = [known for known, _ in _members(_model_at(root, at))]
    return ((*at, *path), rest) if path[0] in known else (at, message)


def _model_at(root: Any, at: KeyPath) -> Any:
    """Return the type of the section at `at`; for a list, the type of its items."""
    for key in at:
        if isinstance(key, str):
            root = next((kind for name, kind in _members(root) if name == key), None)
    return root


def _members(model: Any) -> list[tuple[str, Any]]:
    """Return names and types of a section's settings; for a list, those of its items."""
    while getattr(model, "__args__", None) and not hasattr(model, "model_fields"):
        model = model.__args__[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [(name, info.annotation) for name, info in model.model_fields.items()]
    return [(item.name, item.type) for item in fields(model)] if is_dataclass(model) else []
