"""Reading a sweep file: overrides, validation, and errors that name file, line and setting.

file = load_sweep("sweeps/miniature.yaml", overrides=["train.steps=100"])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.common.errors import UserError
from orchestrator.config.base_model import Kind, validate
from orchestrator.config.schema import Range, Sweep, TrainValues, Values, swept
from orchestrator.config.validation_messages import explain
from orchestrator.config.yaml_source import KeyPath, YamlError, YamlFile, parse
from workloads.settings.objectives.catalogue import Resolved, resolve
from workloads.settings.train import TrainSettings


class SweepFile:
    """A validated sweep, and the place of each of its settings in the file."""

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        self._file = YamlFile(path)
        for override in overrides:
            self._override(override)
        try:
            self.sweep = validate(Sweep, self._file.data)
        except ValidationError as error:
            raise self.error(*explain(error, Sweep, self._file.data)) from None

    def train(self, backbone: int, arm: int | None) -> TrainValues:
        """Return the merged training settings of a backbone and an arm, by index: the arm's take precedence,
        then the backbone's."""
        arms = {} if arm is None else self.sweep.arms[arm].train
        return {**self.sweep.train, **self.sweep.backbones[backbone].train, **arms}

    def train_settings(self, values: TrainValues, backbone: int, arm: int | None) -> TrainSettings:
        """Return the settings of one trial, with the published defaults of its objective.

        `backbone` and `arm` are indices in the file.

        Raises:
            UserError: names file, line and setting.
        """
        found = self.resolve(values, backbone, arm)
        try:
            return validate(found.kind, found.values)
        except ValidationError as error:
            at, message = explain(error, found.kind, found.values)
            inside = [found.places[str(at[0])]] if at and at[0] in found.places else []
            raise self.error(self.train_key_path(backbone, arm, (*inside, *at)), message) from None

    def resolve(self, values: TrainValues, backbone: int, arm: int | None) -> Resolved:
        """Return the class and the values of the settings of one trial, not validated.

        Raises:
            UserError: no objective has that name; names file, line and setting.
        """
        try:
            return resolve(values)
        except ValueError as error:
            setting, _, message = str(error).partition(" ")
            raise self.error(self.train_key_path(backbone, arm, (setting,)), message) from None

    def settings(self, kind: type[Kind], values: Mapping[str, object], key_path: KeyPath) -> Kind:
        """Return the values at `key_path` as `kind`.

        Raises:
            UserError: a value does not fit.
        """
        try:
            return validate(kind, values)
        except ValidationError as error:
            at, message = explain(error, kind, values)
            raise self.error((*key_path, *at), message) from None

    def swept(self, value: Any, key_path: KeyPath) -> Values | Range | None:
        """Return the value at `key_path` as `Values` or `Range`; None if it is a plain setting.

        Raises:
            UserError: it has a key of a swept value and is not well formed.
        """
        try:
            return swept(value)
        except ValidationError as error:
            at, message = explain(error, Values if "values" in value else Range, value)
            raise self.error((*key_path, *at), message) from None

    def train_key_path(self, backbone: int, arm: int | None, at: KeyPath) -> KeyPath:
        """Return the path of a training setting in the file: in the arm, in the backbone, or in `train`."""
        if arm is not None and at and at[0] in self.sweep.arms[arm].train:
            return ("arms", arm, "train", *at)
        if at and at[0] in self.sweep.backbones[backbone].train:
            return ("backbones", backbone, "train", *at)
        return ("train", *at)

    def error(self, key_path: KeyPath, message: str) -> UserError:
        """Return an error about the setting at `key_path`."""
        name = ".".join(str(key) for key in key_path)
        return UserError(f"{self._file.where(key_path)}: {f'{name}: ' if name else ''}{message}")

    def _override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        keys = key.split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {override}: write --set key=value, for example train.steps=100")
        try:
            _, value = parse(text)
        except YamlError as error:
            raise UserError(f"--set {override}: the value is {error}") from None
        self._put(keys, value, override)
        if keys[0] == "train" and len(keys) > 1:
            for place in self._entries_that_set(keys[1]):
                self._put([*place, *keys], value, override)

    def _entries_that_set(self, setting: str) -> list[tuple[str, str]]:
        """Return the backbones and arms that set this training setting, which would take precedence."""
        found = []
        for section in ("backbones", "arms"):
            items = self._file.data.get(section)
            for index, item in enumerate(items if isinstance(items, list) else ()):
                train = item.get("train") if isinstance(item, dict) else None
                if isinstance(train, dict) and setting in train:
                    found.append((section, str(index)))
        return found

    def _put(self, keys: list[str], value: Any, override: str) -> None:
        place: Any = self._file.data
        at: KeyPath = ()
        for part in keys[:-1]:
            new = isinstance(place, dict) and part not in place
            place, index = self._descend(place, part, override, at)
            at = (*at, index)
            if new:
                self._file.mark_overridden(at, override)
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: {keys[-2]} is not a section of the file")
        place[keys[-1]] = value
        self._file.mark_overridden((*at, keys[-1]), override)

    @staticmethod
    def _descend(place: Any, part: str, override: str, above: KeyPath) -> tuple[Any, str | int]:
        """Return the value and the key in `place` of `part`: a key, or the index or name of a list item."""
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in place]
            indices = [str(index) for index in range(len(place))]
            if part in names or part in indices:
                index = names.index(part) if part in names else indices.index(part)
                return place[index], index
            raise UserError(f"--set {override}: no {part!r} in {'.'.join(map(str, above))}: {names}")
        if isinstance(place, dict):
            return place.setdefault(part, {}), part
        raise UserError(f"--set {override}: {part!r} is not a section of the file")


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepFile:
    """Read and validate a sweep file; `overrides` are `key=value` strings.

    Raises:
        UserError: one line that names file, line and setting.
    """
    return SweepFile(Path(path), overrides)
