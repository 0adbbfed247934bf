"""Reading a sweep file: overrides, validation, and errors that name file, line and setting.

file = load_sweep(Path("sweeps/miniature.yaml"), overrides=["train.steps=100"])
"""

import difflib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.errors import UserError
from orchestrator.sweep import Sweep
from orchestrator.yaml_file import KeyPath, YamlFile
from workloads.settings import TrainSettings

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


class SweepFile:
    """A validated sweep, and where in the file each of its settings stands."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self._file = YamlFile(path)
        for override in overrides:
            self._override(override)
        try:
            self.sweep = Sweep.model_validate(self._file.data)
        except ValidationError as error:
            raise self._error(error, Sweep, ()) from None

    def train_settings(self, values: dict[str, Any], backbone: int) -> TrainSettings:
        """The settings of one trial of the backbone at this index.

        Raises:
            UserError: naming file, line and setting.
        """
        try:
            return TypeAdapter(TrainSettings).validate_python(values)
        except ValidationError as error:
            loc = error.errors()[0]["loc"]
            own = ("backbones", backbone, "train")
            known = bool(loc) and loc[0] in self.sweep.backbones[backbone].train
            raise self._error(error, TrainSettings, own if known else ("train",)) from None

    def error(self, key_path: KeyPath, message: str) -> UserError:
        """An error about the setting at `key_path`."""
        name = ".".join(str(key) for key in key_path)
        return UserError(f"{self._file.where(key_path)}: {name}: {message}")

    def _override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write --set key=value, as in train.steps=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value is not valid YAML") from None
        keys: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        place, at = self._file.data, keys[:0]
        for part in keys[:-1]:
            place, index = self._descend(place, part, override, at)
            at = (*at, index)
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: {keys[-2]} is not a section of the file")
        place[keys[-1]] = value
        self._file.overridden((*at, keys[-1]), override)

    @staticmethod
    def _descend(place: Any, part: str | int, override: str, above: KeyPath) -> tuple[Any, str | int]:
        """What `part` (a key, or the index or name of an item) names in `place`, and its key."""
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in place]
            index = names.index(part) if part in names else part
            if isinstance(index, int) and index < len(place):
                return place[index], index
            raise UserError(f"--set {override}: no {part!r} in {'.'.join(map(str, above))}: {names}")
        if isinstance(place, dict):
            return place.setdefault(part, {}), part
        raise UserError(f"--set {override}: {part!r} is not a section of the file")

    def _error(self, error: ValidationError, root: Any, prefix: KeyPath) -> UserError:
        first = _most_telling(error)
        at: KeyPath = (*prefix, *first["loc"])
        if first["type"] in UNKNOWN_KEY:
            near = difflib.get_close_matches(str(at[-1]), _known_keys(root, first["loc"]), n=1, cutoff=0)
            return self.error(at, f"unknown key; the nearest valid one is {near[0]!r}")
        if first["type"] == "missing":
            return self.error(at, "this setting is needed and is not there")
        message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
        shown = "" if first["type"] == "value_error" else f", not {first['input']!r}"
        return self.error(at, f"{message[0].lower()}{message[1:]}{shown}"[:300])


def _most_telling(error: ValidationError) -> Any:
    """A misspelt key rather than the one that is missing in its place."""
    unknown = [each for each in error.errors() if each["type"] in UNKNOWN_KEY]
    return (unknown or error.errors())[0]


def _known_keys(root: Any, loc: tuple[str | int, ...]) -> list[str]:
    """The keys that are valid beside the last one of `loc`."""
    model: Any = root
    for key in loc[:-1]:
        if isinstance(key, str):
            model = next((kind for name, kind in _members(model) if name == key), model)
    return [name for name, _ in _members(model)]


def _members(model: Any) -> list[tuple[str, Any]]:
    """Names and types of the settings of a section; of a list, those of its items."""
    while getattr(model, "__args__", None) and not hasattr(model, "model_fields"):
        model = model.__args__[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [(name, info.annotation) for name, info in model.model_fields.items()]
    return [(item.name, item.type) for item in fields(model)] if is_dataclass(model) else []


def load_sweep(path: Path, overrides: list[str] | None = None) -> SweepFile:
    """Reads and validates a sweep file; `overrides` are `key=value` strings.

    Raises:
        UserError: one line that names file, line and setting.
    """
    return SweepFile(path, overrides or [])
