"""The storage of a sweep: a folder or a bucket, through pyarrow's file systems.

STORAGE/mlflow.db, STORAGE/artifacts/        the embedded tracking (unless a server is given)
STORAGE/prompts/DIGEST/                      prompt shards, shared by sweeps
STORAGE/NAME/results/TRIAL.json              result of each finished trial
STORAGE/NAME/measured/INFER_TRIAL.parquet    measurements of a student at one strength
STORAGE/NAME/pictures/                       pictures that are not measured yet
STORAGE/NAME/summary.json                    results of the whole sweep
"""

import errno
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import refuse_credentials

STORAGE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE,
)  # fmt: skip
"""Errors of a storage that fails during a launch, such as a full disk."""


class Store:
    """A root folder or bucket prefix; all file names are relative to it."""

    def __init__(self, root: str) -> None:
        """Open `root`: a local path, or a URI that pyarrow opens (s3://, gs://, file://).

        Raises:
            UserError: the URI contains credentials or a query, or no file system opens it.
        """
        refuse_credentials("storage", root)
        if "://" in root and "?" in root:
            raise UserError(
                f"storage {root}: contains a ?query: set the endpoint as AWS_ENDPOINT_URL instead"
            )
        self.local = "://" not in root or root.startswith("file://")
        try:
            uri = str(Path(root).expanduser().resolve()) if "://" not in root else root
            self._fs, self._base = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"storage {root}: cannot be opened: {error}") from None
        self.root = uri.rstrip("/")

    def uri(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        found: fs.FileInfo = self._fs.get_file_info(self._path(name))
        return bool(found.type != fs.FileType.NotFound)

    def read(self, name: str) -> bytes:
        with self._fs.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all: local files are written aside and renamed."""
        path = self._path(name)
        if not self.local:
            with self._fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        aside = Path(f"{path}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            aside.write_bytes(content)
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def create(self, name: str, content: bytes) -> bool:
        """Write `name` unless it exists; return false if it does. In a bucket two writers may both
        succeed."""
        if not self.local:
            free = not self.exists(name)
            if free:
                self.write(name, content)
            return free
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        if self.exists(name):
            self._fs.delete_file(self._path(name))

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")

    def put_folder(self, folder: Path, name: str) -> None:
        """Copy the local `folder` to `name`."""
        self._fs.create_dir(self._path(name), recursive=True)
        fs.copy_files(str(folder), self._path(name), destination_filesystem=self._fs)

    def folders(self, name: str | None = None) -> list[str]:
        """Return the sorted names of the folders in the folder `name`, or in the root; none if it does not
        exist."""
        path = self._base if name is None else self._path(name)
        found = self._fs.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def files(self, name: str) -> list[str]:
        """Return the sorted names, relative to the root, of the files in the folder `name`."""
        return sorted(f"{name}/{file}" for file in self.sizes(name))

    def sizes(self, name: str) -> dict[str, int]:
        """Return the size in bytes of each file in the folder `name`, by its name in the folder."""
        found = self._fs.get_file_info(fs.FileSelector(self._path(name), allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def move(self, name: str, new: str) -> None:
        """Rename a file."""
        self._fs.move(self._path(name), self._path(new))

    def make_folder(self, name: str) -> Path:
        """Create the local folder `name` unless it exists, and return it; for a local storage only."""
        folder = Path(self._path(name))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def delete_folder(self, name: str) -> None:
        """Delete the folder `name` and its content, if it exists."""
        if self._fs.get_file_info(self._path(name)).type == fs.FileType.Directory:
            self._fs.delete_dir(self._path(name))

    def move_folder(self, name: str, new: str) -> None:
        """Rename a folder: in one operation in a local storage, file by file in a bucket."""
        if self.local:
            os.replace(self._path(name), self._path(new))
            return
        with self.folder(name) as copy:
            self.put_folder(copy, new)
        self.delete_folder(name)

    @contextmanager
    def folder(self, name: str, without: Sequence[str] = ()) -> Iterator[Path]:
        """Yield the folder `name` itself, or a temporary local copy of it `without` some of its entries."""
        if self.local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory() as copy:
            for entry in self._fs.get_file_info(fs.FileSelector(self._path(name))):
                if entry.base_name in without:
                    continue
                target = Path(copy) / entry.base_name
                if entry.type == fs.FileType.Directory:
                    target.mkdir()
                fs.copy_files(entry.path, str(target), source_filesystem=self._fs)
            yield Path(copy)

    def check_writable(self) -> None:
        """Check that files can be written.

        Raises:
            UserError: they cannot.
        """
        try:
            self.write(".writable", b"")
            self.delete(".writable")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"storage {self.root}: cannot be written: {reason}") from None

    def _path(self, name: str) -> str:
        # Links inside of the storage are followed, so that it may be spread over several disks.
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name:
            raise UserError(f"storage {self.root}: {name!r} is not a file name inside of it")
        return f"{self._base.rstrip('/')}/{name}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
