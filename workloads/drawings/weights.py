"""Shipped form of a teacher: averaged weights in half precision and a record of how they were made.

`NAME.safetensors` holds the network and its text encoders, `NAME.json` a `Record`, `latents.safetensors` the
latent space. Training can go on from them (`train.py --start-from`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from workloads.drawings.training import Training


@dataclass(frozen=True)
class Record:
    """Origin of a teacher's weights."""

    teacher: str
    seed: int
    steps: int
    core_seconds: float
    """CPU time of all threads, over all runs."""
    split: str
    """SHA-256 of cells, split and picture files."""
    weights: str
    """SHA-256 of the file of weights."""
    words: list[str]
    """Vocabulary without special tokens."""


def write_weights(training: Training, folder: Path) -> None:
    """Write the averaged weights and their record; each file is replaced as a whole."""
    state = {name: part.half().contiguous() for name, part in training.average.state_dict().items()}
    content = save({name: part for name, part in state.items() if not name.endswith("position_ids")})
    record = Record(
        training.teacher,
        training.seed,
        training.step,
        round(training.core_seconds, 1),
        training.drawings.digest,
        hashlib.sha256(content).hexdigest(),
        training.words,
    )
    _replace(folder / f"{training.teacher}.safetensors", content)
    _replace(folder / f"{training.teacher}.json", (json.dumps(asdict(record), indent=1) + "\n").encode())


def read_weights(teacher: str, folder: Path) -> tuple[dict[str, Tensor], Record]:
    """Return the weights in single precision and their record; raises ValueError if they do not belong."""
    record = Record(**json.loads((folder / f"{teacher}.json").read_text()))
    path = folder / f"{teacher}.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.weights:
        raise ValueError(f"{path} is not the file that {teacher}.json describes")
    return {name: part.float() for name, part in load_file(path).items()}, record


def load_parts(parts: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights into networks; buffers that are not stored keep their values."""
    left_out = set(parts.state_dict()) - set(state)
    unknown = [name for name in left_out if not name.endswith("position_ids")]
    if unknown or set(state) - set(parts.state_dict()):
        raise ValueError(f"the weights are of another network: {sorted(unknown)[:3]}")
    parts.load_state_dict({**parts.state_dict(), **state})


def go_on_from(training: Training, folder: Path) -> None:
    """Let `training` begin with the weights of `folder`; raises ValueError if they saw other data."""
    state, record = read_weights(training.teacher, folder)
    if (record.split, record.words) != (training.drawings.digest, training.words):
        raise ValueError(f"{folder} was trained on another split or vocabulary than this table gives")
    load_parts(training.average, state)
    training.start_from(training.average.state_dict(), record.steps, record.core_seconds)


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
