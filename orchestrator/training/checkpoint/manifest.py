"""The manifest of a checkpoint: which files it has, and how far the training is.

A checkpoint is a folder of safetensors files (see `tensors`) and one `manifest.json`, which is written last:
nothing in it can execute, and a folder without a manifest is no checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.common.storage import file_digest
from orchestrator.data.shard_order import START, Position
from orchestrator.jobs import StepReport

MANIFEST = "manifest.json"
LAYOUT = 3
"""Version of the tensors' files. In layout 1, which manifests do not name, rank 0 had the whole average. In
layout 2 the adapters of a student had another order."""
OLDEST = {False: 2, True: 3}
"""Oldest layout that is read of a whole student's checkpoint (False) and of an adapter student's (True)."""


class DamagedCheckpointError(Exception):
    """A checkpoint that differs from what was written; the message names the file."""


@dataclass(frozen=True)
class Progress:
    """Position of a training, and its reports so far."""

    step: int = 0
    position: Position = START
    first_spread: float | None = None
    """Spread of the student's latents at the first step, which collapse is measured against."""
    prompts: str = ""
    """Digest of the prompt shards that `position` refers to."""
    reports: tuple[StepReport, ...] = ()
    """All reports, so that a driver that missed some receives them again."""


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`."""

    progress: Progress
    workers: int
    files: Mapping[str, str]
    """SHA-256 of each file, by name."""
    score: float | None
    """Ranking score of the student at this step, if it was evaluated."""

    def to_json(self) -> str:
        """Return the file's content."""
        reports = [report.to_json() for report in self.progress.reports]
        content = asdict(self)
        content["progress"]["reports"] = reports
        return json.dumps({"layout": LAYOUT, **content}, indent=1, sort_keys=True)

    @classmethod
    def parse(cls, content: bytes, oldest: int = OLDEST[False]) -> "Manifest":
        """Read the file's content, of a layout not older than `oldest`.

        Raises:
            DamagedCheckpointError: it is not a manifest, or it is of another layout.
        """
        try:
            stored = json.loads(content)
            layout = stored.pop("layout", 1)
            progress = stored.pop("progress")
            position = Position(**progress.pop("position"))
            reports = tuple(StepReport.from_json(report) for report in progress.pop("reports"))
            manifest = cls(Progress(position=position, reports=reports, **progress), **stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{MANIFEST} cannot be read: {error}") from None
        if not oldest <= layout <= LAYOUT:
            raise DamagedCheckpointError(
                f"{MANIFEST} has layout {layout}: another version of this program wrote it, "
                f"this version reads layouts from {oldest} to {LAYOUT}"
            )
        return manifest


def verify(folder: Path, oldest: int = OLDEST[False]) -> Manifest:
    """Read every file of a checkpoint and compare it with the manifest.

    Raises:
        DamagedCheckpointError: a file is missing or has changed, or its layout is older than `oldest`.
    """
    if not (folder / MANIFEST).exists():
        raise DamagedCheckpointError(f"{MANIFEST} is missing")
    manifest = Manifest.parse((folder / MANIFEST).read_bytes(), oldest)
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise DamagedCheckpointError(f"{MANIFEST} names a file outside of the folder: {name}")
        if not (folder / name).exists():
            raise DamagedCheckpointError(f"{name} is missing")
        if file_digest(folder / name) != expected:
            raise DamagedCheckpointError(f"{name} has changed")
    return manifest
