"""The state of a training on disk: both engines, the average, the step and the data position.

Every worker writes its part into a folder of its own, with the digests of its files; Ray Train
merges the parts. All randomness is a function of (seed, step), so none is stored.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from orchestrator.engine import Engine
from orchestrator.shards import Position
from orchestrator.storage import file_digest
from workloads.ema import AverageWeights

START = Position()


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int = 0
    position: Position = START
    first_spread: float | None = None
    """How much the student's first pictures varied: the measure of collapse."""


def save_checkpoint(
    folder: Path,
    rank: int,
    student: Engine,
    fake_score: Engine,
    average: AverageWeights | None,
    progress: Progress,
) -> None:
    """Writes this worker's part into the local `folder`; every worker calls it."""
    student.save(folder / "student")
    fake_score.save(folder / "fake_score")
    if average is not None:
        save_file(average.weights, folder / "average.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(progress)))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    (folder / f"digests-{rank:04d}.json").write_text(json.dumps(digests, indent=1))


def load_checkpoint(
    folder: Path, student: Engine, fake_score: Engine, average: AverageWeights | None
) -> Progress:
    """Takes up what `save_checkpoint` wrote.

    Raises:
        ValueError: a file is missing, or is not what was written.
    """
    for path, expected in read_digests(folder).items():
        if not (folder / path).exists() or file_digest(folder / path) != expected:
            raise ValueError(f"checkpoint {folder}: {path} is missing or has changed")
    student.load(folder / "student")
    fake_score.load(folder / "fake_score")
    if average is not None:
        average.load(load_file(folder / "average.safetensors"))
    stored: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    return Progress(stored["step"], Position(**stored["position"]), stored["first_spread"])


def read_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its name, as its writers noted them."""
    notes = sorted(folder.glob("digests-*.json"))
    return {name: value for note in notes for name, value in json.loads(note.read_text()).items()}
