"""Where the checkpoints of one training are: written aside and renamed, verified, thinned out.

    FOLDER/step-00000012/          a checkpoint
    FOLDER/step-00000012.part/     one that is being written, or was when its writers died
    FOLDER/step-00000012.damaged/  one that did not verify; set aside, never deleted (a second: .damaged-2)

In a bucket, where nothing can be renamed, the manifest, which is written last, makes a checkpoint.
Every worker holds one of these and calls it at the same time; what only one may do, rank 0 does.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from orchestrator.common.collectives import from_rank_0, gathered
from orchestrator.common.storage import Store
from orchestrator.training.checkpoint.manifest import (
    MANIFEST,
    DamagedCheckpointError,
    Manifest,
    Progress,
    verify,
)

PREFIX, ASIDE, DAMAGED = "step-", ".part", ".damaged"


@dataclass(frozen=True)
class Saved:
    """What became of an attempt to write a checkpoint."""

    uri: str
    digest: str = ""
    """SHA-256 of its manifest, and through it of all its files."""
    problem: str = ""
    """Why it was not written."""


class CheckpointStore:
    """The checkpoints of one training, in a folder of a store that all workers reach."""

    def __init__(self, store: Store, folder: str, rank: int, kept: int) -> None:
        """`kept`: how many of the newest stay, beside the best."""
        self._store, self._folder, self._rank, self._kept = store, folder, rank, kept

    def save(
        self, progress: Progress, score: float | None, write_part: Callable[[Path], dict[str, str]]
    ) -> Saved:
        """Writes a checkpoint; `write_part` writes a worker's files into a local folder.

        One that fails on any worker, as on a full disk, leaves nothing, and the others as they were.
        """
        name = f"{self._folder}/{PREFIX}{progress.step:08d}"
        digests: dict[str, str] = {}
        problem = ""
        try:
            with self._aside(name) as folder:
                digests = write_part(folder)
        except Exception as error:  # safetensors tells of a full disk by an exception of its own
            problem = str(error) or repr(error)
        everyone = gathered((digests, problem))
        problems = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(everyone) if problem]
        files = {file: digest for part, _ in everyone for file, digest in part.items()}
        saved = Saved(self._store.uri(name), problem="; ".join(problems))
        if self._rank == 0:
            if not saved.problem:
                saved = self._commit(name, Manifest(progress, len(everyone), files, score))
            if saved.problem:
                self._store.delete_folder(self._written(name))
        return from_rank_0(saved)

    def newest(self) -> tuple[str | None, list[str]]:
        """The newest checkpoint that verifies, by name, and a line on each that was set aside.

        Leftovers of writers that died are removed.
        """
        return from_rank_0(self._search() if self._rank == 0 else (None, []))

    def progress(self, name: str) -> Progress:
        """What a checkpoint says of the training that wrote it; its other files are not fetched.

        Raises:
            DamagedCheckpointError: its manifest cannot be read.
        """
        return Manifest.parse(self._store.read(f"{name}/{MANIFEST}")).progress

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """A checkpoint as a local folder."""
        return self._store.folder(name)

    @contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        """A local folder whose files end up where the checkpoint is being made."""
        if self._store.local:
            yield self._store.make_folder(self._written(name))
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self._store.put_folder(Path(folder), name)

    def _commit(self, name: str, manifest: Manifest) -> Saved:
        """Makes the written files a checkpoint, and drops those that are not to be kept."""
        content, uri = manifest.to_json().encode(), self._store.uri(name)
        try:
            self._store.write(f"{self._written(name)}/{MANIFEST}", content)
            if self._store.local:
                self._store.delete_folder(name)
                self._store.move_folder(self._written(name), name)
        except OSError as error:
            return Saved(uri, problem=str(error))
        self._thin_out()
        return Saved(uri, hashlib.sha256(content).hexdigest())

    def _thin_out(self) -> None:
        names = self._names()
        best = max(names, key=lambda name: (self._score(name), name))
        for name in names[: -self._kept]:
            if name != best:
                self._store.delete_folder(name)

    def _score(self, name: str) -> float:
        try:
            score = Manifest.parse(self._store.read(f"{name}/{MANIFEST}")).score
        except (OSError, DamagedCheckpointError):
            score = None
        return -math.inf if score is None else score

    def _search(self) -> tuple[str | None, list[str]]:
        self._remove_leftovers()
        notes: list[str] = []
        for name in reversed(self._names()):
            try:
                with self._store.folder(name) as folder:
                    verify(folder)
                return name, notes
            except DamagedCheckpointError as damage:
                aside = self._free(name + DAMAGED)
                self._store.move_folder(name, aside)
                where = f"set aside as *{aside.removeprefix(name)}"
                notes.append(f"checkpoint {self._store.uri(name)}: {damage}; {where}")
        return None, notes

    def _free(self, name: str) -> str:
        """`name`, or with a number behind it, if something has that name: the same step damaged again."""
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        return next(free for free in names if not self._store.exists(free))

    def _remove_leftovers(self) -> None:
        for entry in self._store.folders(self._folder):
            name = f"{self._folder}/{entry}"
            unfinished = not self._store.local and not self._store.exists(f"{name}/{MANIFEST}")
            if entry.endswith(ASIDE) or unfinished:
                self._store.delete_folder(name)

    def _names(self) -> list[str]:
        """The checkpoints, oldest first."""
        found = [entry for entry in self._store.folders(self._folder) if entry.startswith(PREFIX)]
        return [f"{self._folder}/{entry}" for entry in found if "." not in entry]

    def _written(self, name: str) -> str:
        return name + ASIDE if self._store.local else name
