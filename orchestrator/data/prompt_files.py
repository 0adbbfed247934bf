"""Files of a prompt source: which are read, in which order, and which are left out with a reason."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from pyarrow import fs

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import refuse_credentials

LINES, TABLES = (".txt", ".jsonl", ".json"), (".csv", ".tsv")
SUFFIXES = (*LINES, *TABLES, ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".zst")
"""Suffixes of compressed files, as in `.jsonl.gz`, which pyarrow unpacks."""
SYSTEM_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "@eaDir", "lost+found")
"""Folders that macOS, Windows, Synology and Linux put beside people's own files."""
README_NAMES = ("readme", "license", "licence")
HIDDEN, README = "hidden or of a desktop or editor", "README or licence"
JSON, PACKED = ".json (may be settings; read if it is the source itself)", "packed copy of a file beside it"


@dataclass(frozen=True)
class PromptFile:
    """One file that is read."""

    name: str
    """Local path or URI, for messages."""
    path: str
    """Path in the source's file system."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class PromptFiles:
    """The files of a source in the order in which they are read."""

    source: str
    files: tuple[PromptFile, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    """Names below the source, with the reason, of the files of a known suffix that are not read."""

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    def describe_left_out(self) -> str:
        """Return one line with the count of the files that are left out, by reason, and an example."""
        reasons = Counter(reason for _, reason in self.left_out)
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{self.source}: {len(self.left_out)} files are left out: {counts}; as {self.left_out[0][0]}"


def open_source(source: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a local path or URI, and the path in it.

    Raises:
        OSError, ValueError: no file system opens it.
    """
    if "://" in source:
        system, path = fs.FileSystem.from_uri(source)
        return system, path
    return fs.LocalFileSystem(), os.path.expanduser(source)


def suffix_of(path: str) -> str | None:
    """Return the kind of a prompt file, one of `SUFFIXES`, in any case and without compression, or None."""
    name = path.lower()
    for packed in COMPRESSIONS:
        if name.endswith(tuple(suffix + packed for suffix in (*LINES, *TABLES))):
            name = name.removesuffix(packed)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def list_files(source: str) -> PromptFiles:
    """Return the prompt files of `source`, sorted by path: itself, or those below a folder.

    Raises:
        UserError: it contains credentials, does not exist, or has no file of a known suffix.
    """
    refuse_credentials("prompts.source", source)
    try:
        system, path = open_source(source)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f"prompts.source {source}: no such file or folder")
        if info.type == fs.FileType.Directory:
            return _below(source, path, _entries(system, path))
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts.source {source}: the name of a file there is not UTF-8: rename it: {error.object!r}"
        ) from None
    except Exception as error:  # file systems of other packages (hf://) raise kinds of their own
        raise UserError(f"prompts.source {source}: cannot be opened: {first_line(error)}") from None
    if suffix_of(path) is None:
        raise UserError(
            f"prompts.source {source}: is no file of {' '.join(SUFFIXES)}: save it as one of them"
        )
    return PromptFiles(source, (PromptFile(_named(source, path, path), path, info.size),))


def _entries(system: fs.FileSystem, path: str) -> list[fs.FileInfo]:
    """Return all that lies below a folder; a link to a folder above itself is not followed.

    pyarrow alone follows such a link 40 times and returns each file as often.
    """
    if not isinstance(system, fs.LocalFileSystem):
        infos: list[fs.FileInfo] = system.get_file_info(fs.FileSelector(path, recursive=True))
        return infos
    found, waiting = [], [(path, {os.path.realpath(path)})]
    while waiting:
        folder, above = waiting.pop()
        for info in system.get_file_info(fs.FileSelector(folder)):
            found.append(info)
            real = os.path.realpath(info.path) if info.type == fs.FileType.Directory else None
            if real and real not in above:
                waiting.append((info.path, above | {real}))
    return found


def _below(source: str, path: str, infos: list[fs.FileInfo]) -> PromptFiles:
    """Return the prompt files among `infos`, which lie below the folder `path`."""
    root = path.rstrip("/")
    known = {info.path.removeprefix(root).lstrip("/"): info for info in infos if info.is_file}
    prompts = {name: info for name, info in known.items() if suffix_of(name)}
    reasons = {name: _reason_to_leave_out(name, prompts) for name in sorted(prompts)}
    used = sorted((info for name, info in prompts.items() if not reasons[name]), key=lambda info: info.path)
    left_out = tuple((name, reason) for name, reason in reasons.items() if reason)
    files = tuple(PromptFile(_named(source, path, info.path), info.path, info.size) for info in used)
    found = PromptFiles(source, files, left_out)
    if not files:
        there = Counter(PurePosixPath(name).suffix or "no suffix" for name in known if name not in prompts)
        others = f"; there are {', '.join(f'{n} of {kind}' for kind, n in there.most_common(4))}"
        rest = f"; {found.describe_left_out().removeprefix(f'{source}: ')}" if left_out else ""
        raise UserError(
            f"prompts.source {source}: no file of {' '.join(SUFFIXES)} there{others * bool(there)}{rest}"
        )
    return found


def _reason_to_leave_out(name: str, beside: Collection[str]) -> str:
    """Return the reason why a file below a folder is not read, or an empty string.

    Ray Data, pyarrow and datasets leave out names that begin with a dot, too.

    Args:
        name: path below the source.
        beside: all such paths.
    """
    parts = name.split("/")
    if any(part.startswith((".", "~$")) or part in SYSTEM_FOLDERS for part in parts):
        return HIDDEN
    if parts[-1].split(".")[0].lower() in README_NAMES:
        return README
    if name.lower().endswith(COMPRESSIONS) and name.rpartition(".")[0] in beside:
        return PACKED
    return JSON if suffix_of(name) == ".json" else ""


def _named(source: str, path: str, file: str) -> str:
    """Return the name of `file`, which lies at or below `path`, pyarrow's path of `source`.

    Of a URI only the source has the account of an Azure store and the query of a bucket.
    """
    if "://" not in source:
        return file
    place, mark, query = source.partition("?")
    below = quote(file.removeprefix(path).strip("/"))
    return f"{place.rstrip('/')}/{below}{mark}{query}" if below else source


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
