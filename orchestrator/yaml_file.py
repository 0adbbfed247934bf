"""YAML that remembers its lines: safe loading, no key twice, and where each value stood."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import UserError

KeyPath = tuple[str | int, ...]


class YamlFile:
    """A mapping read from a file, with the line of each of its keys."""

    def __init__(self, path: Path) -> None:
        """Reads `path`.

        Raises:
            UserError: it cannot be read, is not YAML, is no mapping, or holds a key twice.
        """
        self.path = path
        self._lines: dict[KeyPath, int] = {}
        self._overrides: dict[KeyPath, str] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"{path}: cannot read the sweep file: {reason}") from None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(_yaml_message(path, error)) from None
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: a sweep file is a mapping of settings; this one is not")
        self._walk(node, ())

    def where(self, key_path: KeyPath) -> str:
        """`file:line` of the setting at `key_path`, or of the nearest one that contains it."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._overrides:
                return f"--set {self._overrides[key_path[:length]]}"
            if key_path[:length] in self._lines:
                return f"{self.path}:{self._lines[key_path[:length]]}"
        return str(self.path)

    def overridden(self, key_path: KeyPath, override: str) -> None:
        """The value at `key_path` comes from `--set override` instead."""
        self._overrides[key_path] = override

    def _walk(self, node: yaml.Node, at: KeyPath) -> None:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
                self._walk(item, (*at, index))
        elif isinstance(node, yaml.MappingNode):
            seen: set[Hashable] = set()
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise UserError(f"{self.path}:{line}: the key {key.value!r} stands here twice")
                seen.add(key.value)
                self._lines[(*at, key.value)] = line
                self._walk(value, (*at, key.value))


def _yaml_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    return f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
