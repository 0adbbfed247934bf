"""The state of a training on disk: its engines, the average, random states, and how far it is.

A folder of safetensors and one `manifest.json`, which is written last: nothing in it can execute,
and a folder without a manifest is no checkpoint. Every worker writes its part; the parts can be
taken up by any number of workers. What a step draws is a function of (seed, step) and so needs no
state; torch's own generators are kept all the same, for networks with dropout.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.engine import Engine
from orchestrator.shards import START, Position
from orchestrator.storage import file_digest
from workloads.ema import AverageWeights

MANIFEST = "manifest.json"
AVERAGE = "average.safetensors"


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
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def parse(cls, content: bytes) -> "Manifest":
        """What `to_json` wrote.

        Raises:
            DamagedCheckpointError: it is something else.
        """
        try:
            stored = json.loads(content)
            progress = stored.pop("progress")
            position, reports = Position(**progress.pop("position")), tuple(progress.pop("reports"))
            return cls(Progress(position=position, reports=reports, **progress), **stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{MANIFEST} cannot be read: {error}") from None


def write_part(
    folder: Path, rank: int, engines: Mapping[str, Engine], average: AverageWeights | None
) -> dict[str, str]:
    """Writes this worker's part into the local `folder`; returns its files' digests, by name."""
    parts = {
        **{f"{name}-{rank:04d}.safetensors": engine.state() for name, engine in engines.items()},
        f"random-{rank:04d}.safetensors": _random_states(),
        **({AVERAGE: average.weights} if average is not None else {}),
    }
    for name, tensors in parts.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    return {name: file_digest(folder / name) for name in parts}


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


def read_progress(folder: Path) -> Progress:
    """How far the training was at a verified checkpoint."""
    return Manifest.parse((folder / MANIFEST).read_bytes()).progress


def load(folder: Path, rank: int, engines: Mapping[str, Engine], average: AverageWeights | None) -> None:
    """Takes up a verified checkpoint; every worker calls it. `engines`: by name, as in `write_part`."""
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    for name, engine in engines.items():
        engine.load([load_file(folder / f"{name}-{r:04d}.safetensors") for r in range(manifest.workers)])
    if average is not None:
        average.load(load_file(folder / AVERAGE))
    if rank < manifest.workers:
        _restore_random(load_file(folder / f"random-{rank:04d}.safetensors"))


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
