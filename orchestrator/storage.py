"""Files of a sweep, in a folder or in a bucket, through pyarrow's file systems.

STORAGE/mlflow.db, STORAGE/artifacts/        the embedded tracking (unless a server is given)
STORAGE/prompts/DIGEST/                      prompt shards, shared by sweeps
STORAGE/NAME/results/TRIAL.json              what each finished trial came to
STORAGE/NAME/measured/INFER_TRIAL.parquet    what was measured of a student at one strength
STORAGE/NAME/pictures/                       of what is not measured yet, or infer.keep_pictures
STORAGE/NAME/summary.json                    the whole sweep
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from orchestrator.errors import UserError


class Store:
    """A root folder or bucket prefix; all names are relative to it."""

    def __init__(self, root: str) -> None:
        """`root`: a local path, or a URI that pyarrow opens (s3://, gs://, file://).

        Raises:
            UserError: no file system answers to it.
        """
        self.local = "://" not in root or root.startswith("file://")
        try:
            uri = str(Path(root).expanduser().resolve()) if "://" not in root else root
            self._fs, self._base = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
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
        """Whole or not at all: local files are written aside and renamed."""
        path = self._path(name)
        if not self.local:
            with self._fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        aside = f"{path}.{os.getpid()}.part"
        Path(aside).write_bytes(content)
        os.replace(aside, path)

    def delete(self, name: str) -> None:
        self._fs.delete_file(self._path(name))

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")

    def put_folder(self, folder: Path, name: str) -> None:
        """Copies the local `folder` to `name`."""
        self._fs.create_dir(self._path(name), recursive=True)
        fs.copy_files(str(folder), self._path(name), destination_filesystem=self._fs)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """The folder `name` as a local one: itself, or a temporary copy."""
        if self.local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory() as copy:
            fs.copy_files(self._path(name), copy, source_filesystem=self._fs)
            yield Path(copy)

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written here."""
        try:
            self.write(".writable", b"")
            self.delete(".writable")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"storage {self.root}: cannot be written: {reason}") from None

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"


def file_digest(path: Path) -> str:
    """SHA-256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
