"""What makes a folder a checkpoint, and how far a training is there; its tensors are `checkpoint_parts`.

A folder of safetensors and one `manifest.json`, which is written last: nothing in it can execute,
and a folder without a manifest is no checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.common.storage import file_digest
from orchestrator.data.shard_order import START, Position

MANIFEST = "manifest.json"
LAYOUT = 2
"""Of the tensors' files. In 1, which manifests do not name, rank 0 had the whole average."""


class DamagedCheckpointError(Exception):
    """A checkpoint that is not what was written: a sentence that names the file."""


@dataclass(frozen=True)
class Progress:
    """How far a training is, and what it has reported."""

    step: int = 0
    position: Position = START
    first_spread: float | None = None
    """How much the student's first pictures varied: the measure of collapse."""
    prompts: str = ""
    """Digest of the prompt shards that `position` counts in."""
    reports: tuple[Mapping[str, Any], ...] = ()
    """What the driver was told, so that nothing is missing where it was not listening."""


@dataclass(frozen=True)
class Manifest:
    """What makes a folder a checkpoint."""

    progress: Progress
    workers: int
    files: Mapping[str, str]
    """SHA-256 of each file, by name."""
    score: float | None
    """Of the student at this step, if it was looked at then."""

    def to_json(self) -> str:
        return json.dumps({"layout": LAYOUT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def parse(cls, content: bytes) -> "Manifest":
        """What `to_json` wrote.

        Raises:
            DamagedCheckpointError: it is something else, or what another version wrote.
        """
        try:
            stored = json.loads(content)
            layout = stored.pop("layout", 1)
            progress = stored.pop("progress")
            position, reports = Position(**progress.pop("position")), tuple(progress.pop("reports"))
            manifest = cls(Progress(position=position, reports=reports, **progress), **stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{MANIFEST} cannot be read: {error}") from None
        if layout != LAYOUT:
            raise DamagedCheckpointError(
                f"{MANIFEST} has layout {layout}: another version of this program wrote it, "
                f"this one reads {LAYOUT}"
            )
        return manifest


def verify(folder: Path) -> Manifest:
    """Reads every file of a checkpoint.

    Raises:
        DamagedCheckpointError: a file is missing or has changed.
    """
    if not (folder / MANIFEST).exists():
        raise DamagedCheckpointError(f"{MANIFEST} is missing")
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise DamagedCheckpointError(f"{MANIFEST} names a file elsewhere: {name}")
        if not (folder / name).exists():
            raise DamagedCheckpointError(f"{name} is missing")
        if file_digest(folder / name) != expected:
            raise DamagedCheckpointError(f"{name} has changed")
    return manifest
