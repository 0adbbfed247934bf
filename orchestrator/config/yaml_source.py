"""YAML that remembers its lines: safe loading, no key twice, and where each value stood."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.common.errors import UserError

KeyPath = tuple[str | int, ...]

LARGEST_FILE = 1_000_000
"""Bytes: a hundred times a long sweep file, read in seconds."""
MOST_VALUES, DEEPEST = 100_000, 50
"""Of a text with its aliases written out, so that nine lines of them cannot fill the memory."""
LONGEST_OVERRIDE = 100
"""Characters of one that are shown."""
TAG = "tag:yaml.org,2002:"
TEXT, MERGE, DATE = TAG + "str", TAG + "merge", TAG + "timestamp"
TAGS = {TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


class YamlError(ValueError):
    """What is wrong with a YAML text, and at which of its lines if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Safe, and takes a date for the text that it is written as: no setting is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (it is PyYAML's own attribute)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text and its value, in which no two places share an object.

    Raises:
        YamlError: not YAML, a key twice, no plain values, or too many of them.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _check(node)
        return node, _unshared(yaml.load(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlError(f"not valid YAML: {reason}", mark.line + 1 if mark else None) from None
    except RecursionError:
        raise YamlError(f"nested more than {DEEPEST} deep") from None
    except (ValueError, LookupError) as error:
        if isinstance(error, YamlError):
            raise
        # Numbers of thousands of digits, or a tag like !!int before what is none.
        raise YamlError(f"a value that cannot be read: {error}") from None


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
            node, self.data = parse(_read(path))
        except YamlError as error:
            line = f":{error.line}" if error.line else ""
            raise UserError(f"{path}{line}: {error}") from None
        if node is None:
            raise UserError(f"{path}: is empty; sweeps/miniature.yaml is one to start from")
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: a sweep file is a mapping of settings; this one is not")
        self._walk(node, ())

    def where(self, key_path: KeyPath) -> str:
        """`file:line` of the setting at `key_path`, or of the nearest one that contains it."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._overrides:
                return f"--set {self._overrides[key_path[:length]][:LONGEST_OVERRIDE]}"
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
            for key, value in node.value:
                self._lines[(*at, key.value)] = key.start_mark.line + 1
                self._walk(value, (*at, key.value))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot read the sweep file: it is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the sweep file: {error.strerror or error}") from None
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: is larger than {LARGEST_FILE:,} bytes, so no sweep file")
    return text


def _check(root: yaml.Node) -> None:
    for count, node in enumerate(_nodes(root, 0), 1):
        line = node.start_mark.line + 1
        if count > MOST_VALUES:
            raise YamlError(f"more than {MOST_VALUES:,} values, aliases written out", line)
        if node.tag not in TAGS:
            raise YamlError(f"the tag {node.tag.replace(TAG, '!!')} is not allowed: write plain values", line)
        if isinstance(node, yaml.ScalarNode) and any(
            c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value
        ):
            raise YamlError("text with a character that is none (NUL, or half of a pair)", line)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in (TEXT, MERGE):
            raise YamlError(
                f"a key that is not text, but {key.tag.removeprefix(TAG)}: put it in quotes", line
            )
        if not isinstance(key.value, str):
            raise YamlError("a key that is not text", line)
        if key.value in seen:
            raise YamlError(f"the key {key.value!r} stands here twice", line)
        seen.add(key.value)


def _nodes(node: yaml.Node, depth: int) -> Iterator[yaml.Node]:
    """The node and all below it; what an alias stands for is met each time."""
    if depth > DEEPEST:
        raise YamlError(f"nested more than {DEEPEST} deep", node.start_mark.line + 1)
    yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _nodes(part, depth + 1)


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value
