"""The tensors of a checkpoint: a training's engines, its average, and random states.

Every worker writes its part, and any number of workers can load the parts. A step's random draws are a
function of (seed, step) and need no state; torch's own generators are saved for networks with dropout.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.common.storage import file_digest
from orchestrator.training.checkpoint.manifest import MANIFEST, Manifest
from orchestrator.training.deepspeed_engine import Engine
from workloads.objectives.base import STUDENT
from workloads.students.ema import AverageWeights

AVERAGE, RANDOM = "average", "random"


def write_part(
    folder: Path, rank: int, engines: Mapping[str, Engine], average: AverageWeights
) -> dict[str, str]:
    """Write this worker's part into the local `folder`; return its files' SHA-256, by name."""
    states = {name: engine.state() for name, engine in engines.items()}
    states |= {AVERAGE: average.weights, RANDOM: _random_states()}
    files = {name: _file(folder, name, rank) for name in states}
    for name, tensors in states.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, files[name])
    return {file.name: file_digest(file) for file in files.values()}


def load(folder: Path, rank: int, engines: Mapping[str, Engine], average: AverageWeights) -> None:
    """Load a verified checkpoint into this worker's engines and average; every worker calls this."""
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())

    def parts(name: str) -> list[dict[str, Tensor]]:
        return [load_file(_file(folder, name, worker)) for worker in range(manifest.workers)]

    for name, engine in engines.items():
        engine.load(parts(name))
    average.load(engines[STUDENT].part(parts(AVERAGE)))
    if rank < manifest.workers:
        _restore_random(load_file(_file(folder, RANDOM, rank)))


def _file(folder: Path, name: str, worker: int) -> Path:
    return folder / f"{name}-{worker:04d}.safetensors"


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
