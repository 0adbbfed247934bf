"""YAML with line numbers: safe loading without duplicate keys, and the line of each value."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.common.errors import UserError

KeyPath = tuple[str | int, ...]

MAX_FILE_BYTES = 1_000_000
"""A hundred times the size of a long sweep file; read in seconds."""
MAX_VALUES, MAX_DEPTH = 100_000, 50
"""Limits of a text with its aliases expanded, because nine lines of nested aliases can fill the memory."""
MAX_OVERRIDE_SHOWN = 100
"""Characters of an override that an error message shows."""
TAG = "tag:yaml.org,2002:"
TEXT, MERGE, DATE, FLOAT = TAG + "str", TAG + "merge", TAG + "timestamp", TAG + "float"
TAGS = {TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


class YamlError(ValueError):
    """A mistake in a YAML text, with its line if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Safe loader that reads dates as text, because no setting is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (it is PyYAML's own attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


# YAML 1.2 reads 1e-6 as a number, PyYAML only 1.0e-6.
_Loader.add_implicit_resolver(FLOAT, re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def parse(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the nodes of a YAML text and its value, in which no two places share an object.

    Raises:
        YamlError: not YAML, a duplicate key, values that are not plain, or too many of them.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check(node)
        return node, _copy_aliased(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlError(f"not valid YAML: {reason}", mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YamlError(f"nested more than {MAX_DEPTH} deep") from None
    except (ValueError, LookupError) as error:
        if isinstance(error, YamlError):
            raise
        # Numbers of thousands of digits, or a tag like !!int before something that is no integer.
        raise YamlError(f"a value that cannot be read: {error}") from None


class YamlFile:
    """A mapping read from a file, with the line of each of its keys."""

    def __init__(self, path: Path) -> None:
        """Read `path`.

        Raises:
            UserError: the file cannot be read, is not YAML, is not a mapping, or has a duplicate key.
        """
        self.path = path
        self._lines: dict[KeyPath, int] = {}
        self._overrides: dict[KeyPath, str] = {}
        try:
            node, self.data = parse(_read(path))
        except YamlError as error:
            line = f":{error.line}" if error.line else ""
            raise UserError(f"{path}{line}: {error}") from None
        if node is None:
            raise UserError(f"{path}: is empty: start from a copy of sweeps/miniature.yaml")
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: a sweep file must be a mapping of settings")
        self._record_lines(node, ())

    def where(self, key_path: KeyPath) -> str:
        """Return `file:line` of the setting at `key_path`, or of the nearest section that contains it."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._overrides:
                return f"--set {self._overrides[key_path[:length]][:MAX_OVERRIDE_SHOWN]}"
            if key_path[:length] in self._lines:
                return f"{self.path}:{self._lines[key_path[:length]]}"
        return str(self.path)

    def mark_overridden(self, key_path: KeyPath, override: str) -> None:
        """Record that the value at `key_path` comes from `--set override`."""
        self._overrides[key_path] = override

    def _record_lines(self, node: yaml.Node, at: KeyPath) -> None:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
                self._record_lines(item, (*at, index))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._lines[(*at, key.value)] = key.start_mark.line + 1
                self._record_lines(value, (*at, key.value))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot read the sweep file: it is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the sweep file: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: is larger than {MAX_FILE_BYTES:,} bytes, the limit of a sweep file")
    return text


def _check(root: yaml.Node) -> None:
    for count, node in enumerate(_nodes(root, 0), 1):
        line = node.start_mark.line + 1
        if count > MAX_VALUES:
            raise YamlError(f"more than {MAX_VALUES:,} values with aliases expanded", line)
        if node.tag not in TAGS:
            raise YamlError(f"the tag {node.tag.replace(TAG, '!!')} is not allowed: write plain values", line)
        if isinstance(node, yaml.ScalarNode) and any(
            c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value
        ):
            raise YamlError("text contains a NUL or an unpaired surrogate", line)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in (TEXT, MERGE) or not isinstance(key.value, str):
            raise YamlError(f"a key is {key.tag.removeprefix(TAG)}, not text: put it in quotes", line)
        if key.value in seen:
            raise YamlError(f"duplicate key {key.value!r}: remove one", line)
        seen.add(key.value)


def _nodes(node: yaml.Node, depth: int) -> Iterator[yaml.Node]:
    """Yield the node and all below it; the target of an alias is yielded at every use."""
    if depth > MAX_DEPTH:
        raise YamlError(f"nested more than {MAX_DEPTH} deep", node.start_mark.line + 1)
    yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _nodes(part, depth + 1)


def _copy_aliased(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy_aliased(item) for key, item in value.items()}
    return [_copy_aliased(item) for item in value] if isinstance(value, list) else value
