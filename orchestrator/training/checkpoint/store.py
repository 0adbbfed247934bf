"""The checkpoints of one training in the storage: written aside and renamed, verified, thinned out.

    FOLDER/step-00000012/          a checkpoint
    FOLDER/step-00000012.part/     an incomplete one: being written, or left by writers that died
    FOLDER/step-00000012.damaged/  one that failed verification; never deleted (a second one: .damaged-2)

A bucket cannot rename; there the manifest, which is written last, completes a checkpoint. Every worker holds
a `CheckpointStore` and all call it at the same time; rank 0 does what only one may do.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, count
from pathlib import Path

from orchestrator.common.collectives import from_rank_0, gathered
from orchestrator.common.storage import Store
from orchestrator.jobs import CheckpointFailed, CheckpointWritten
from orchestrator.training.checkpoint.manifest import (
    MANIFEST,
    OLDEST,
    DamagedCheckpointError,
    Manifest,
    Progress,
    verify,
)

PREFIX, ASIDE, DAMAGED = "step-", ".part", ".damaged"


Saved = CheckpointWritten | CheckpointFailed
"""Outcome of an attempt to write a checkpoint; the digest is the SHA-256 of its manifest."""


class CheckpointStore:
    """The checkpoints of one training, in a folder of a store that all workers reach."""

    def __init__(
        self, store: Store, folder: str, *, rank: int, keep: int, oldest_layout: int = OLDEST[False]
    ) -> None:
        """Use `folder` of the store; the newest `keep` checkpoints stay, beside the best one."""
        self._store, self._folder, self._rank, self._keep = store, folder, rank, keep
        self._oldest_layout = oldest_layout

    def save(
        self, progress: Progress, score: float | None, write_part: Callable[[Path], dict[str, str]]
    ) -> Saved:
        """Write a checkpoint; if any worker fails, as on a full disk, earlier checkpoints stay as they were.

        Args:
            progress: position of the training.
            score: ranking score of the student, if it was evaluated at this step.
            write_part: writes a worker's files into a local folder and returns their SHA-256 by name.
        """
        name = f"{self._folder}/{PREFIX}{progress.step:08d}"
        digests: dict[str, str] = {}
        problem = ""
        try:
            with self._aside(name) as folder:
                digests = write_part(folder)
        except Exception as error:  # safetensors raises an exception of its own for a full disk
            problem = str(error) or repr(error)
        everyone = gathered((digests, problem))
        problems = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(everyone) if problem]
        files = {file: digest for part, _ in everyone for file, digest in part.items()}
        saved: Saved = CheckpointFailed(self._store.uri(name), "; ".join(problems))
        if self._rank == 0:
            if not problems:
                saved = self._commit(name, Manifest(progress, len(everyone), files, score))
            if isinstance(saved, CheckpointFailed):
                self._store.delete_folder(self._partial(name))
        return from_rank_0(saved)

    def newest(self) -> tuple[str | None, list[str]]:
        """Return the name of the newest checkpoint that verifies, and a line on each that was set aside.

        Incomplete checkpoints of writers that died are removed.
        """
        return from_rank_0(self._search() if self._rank == 0 else (None, []))

    def progress(self, name: str) -> Progress:
        """Return the position of the training that wrote a checkpoint; only the manifest is fetched.

        Raises:
            DamagedCheckpointError: its manifest cannot be read.
        """
        return Manifest.parse(self._store.read(f"{name}/{MANIFEST}")).progress

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """Open a checkpoint as a local folder."""
        return self._store.folder(name)

    @contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        """Yield a local folder whose files become those of the checkpoint."""
        if self._store.local:
            yield self._store.make_folder(self._partial(name))
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self._store.put_folder(Path(folder), name)

    def _commit(self, name: str, manifest: Manifest) -> Saved:
        """Complete the checkpoint, and delete those that are not to be kept."""
        content, uri = manifest.to_json().encode(), self._store.uri(name)
        try:
            self._store.write(f"{self._partial(name)}/{MANIFEST}", content)
            if self._store.local:
                self._store.delete_folder(name)
                self._store.move_folder(self._partial(name), name)
        except OSError as error:
            return CheckpointFailed(uri, str(error))
        self._thin_out()
        return CheckpointWritten(uri, hashlib.sha256(content).hexdigest())

    def _thin_out(self) -> None:
        names = self._names()
        best = max(names, key=lambda name: (self._score(name), name))
        for name in names[: -self._keep]:
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
                    verify(folder, self._oldest_layout)
                return name, notes
            except DamagedCheckpointError as damage:
                aside = self._free(name + DAMAGED)
                self._store.move_folder(name, aside)
                where = f"set aside as *{aside.removeprefix(name)}"
                notes.append(f"checkpoint {self._store.uri(name)}: {damage}; {where}")
        return None, notes

    def _free(self, name: str) -> str:
        """Return `name`, with a number if it is taken because the same step was damaged before."""
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        return next(free for free in names if not self._store.exists(free))

    def _remove_leftovers(self) -> None:
        for entry in self._store.folders(self._folder):
            name = f"{self._folder}/{entry}"
            unfinished = not self._store.local and not self._store.exists(f"{name}/{MANIFEST}")
            if entry.endswith(ASIDE) or unfinished:
                self._store.delete_folder(name)

    def _names(self) -> list[str]:
        """Return the names of the checkpoints, oldest first."""
        found = [entry for entry in self._store.folders(self._folder) if entry.startswith(PREFIX)]
        return [f"{self._folder}/{entry}" for entry in found if "." not in entry]

    def _partial(self, name: str) -> str:
        return name + ASIDE if self._store.local else name
