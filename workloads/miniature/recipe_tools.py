"""Functions that both recipes share: batches with a learning rate schedule, updates, and the saved files."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


def batches(rows: int, batch: int, steps: int, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield random row indices (batch,) `steps` times, with a warm-up and a cosine of the learning rate."""
    scale: Callable[[int], float] = lambda step: min(  # noqa: E731
        (step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    for _ in range(steps):
        yield torch.randint(0, rows, (batch,))
        schedule.step()


def update(optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
    """Back-propagate the scalar `loss`, clip the gradient norm at 1 and step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def remove_source_paths(folder: Path) -> None:
    """Remove from every config the local path that its weights were loaded from."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every weight file to `digests.json`, which a test compares."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")
