"""The tensors of a checkpoint: a training's engines, its average, and random states.

Every worker writes its part; the parts can be taken up by any number of workers. What a step draws
is a function of (seed, step) and so needs no state; torch's own generators are kept all the same,
for networks with dropout.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.checkpoint import MANIFEST, Manifest
from orchestrator.engine import Engine
from orchestrator.storage import file_digest
from workloads.ema import AverageWeights

AVERAGE = "average.safetensors"


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
