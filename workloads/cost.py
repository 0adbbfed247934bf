"""What a training costs: parameters, memory that is certain, operations of a sample.

Operations are counted, not measured; how fast a machine does them is the caller's assumption.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORWARDS_PER_SAMPLE = 9
"""Student forward and backward 3, teacher 2, fake score 2, its training forward and backward 2."""


@dataclass(frozen=True)
class NetworkCost:
    """One network's size."""

    parameters: int
    forward_tflops: float
    """10^12 operations of one forward pass of one sample (a multiply-add counts two)."""


KNOWN = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": NetworkCost(859_520_964, 0.803),
    "stabilityai/stable-diffusion-2-1-base": NetworkCost(865_910_724, 0.804),
    "stabilityai/stable-diffusion-2-1": NetworkCost(865_910_724, 2.04),
    "PixArt-alpha/PixArt-XL-2-512x512": NetworkCost(610_856_096, 1.236),
}
"""Counted from the configurations on the meta device; SD2.1 at 768 px by the latents' area."""


def network_cost(source: str) -> NetworkCost | None:
    """The cost of a backbone, without opening its weights; None where nothing is known of it.

    Of a local folder the parameters are read from the headers of its safetensors, and the
    operations are taken as two a parameter and latent token: an underestimate for attention.
    """
    if source in KNOWN:
        return KNOWN[source]
    for component in ("unet", "transformer"):
        folder = Path(source) / component
        if (folder / "config.json").exists():
            config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            parameters = sum(_parameters(file) for file in folder.glob("*.safetensors"))
            tokens = (config.get("sample_size", 64) // config.get("patch_size", 2)) ** 2
            return NetworkCost(parameters, 2e-12 * parameters * tokens)
    return None


def state_bytes(cost: NetworkCost, lora_parameters: int, workers: int, half: bool) -> int:
    """Bytes a worker holds in weights, gradients and optimisers under ZeRO-2; no activations.

    Teacher and student weights are whole on each worker; gradients, float32 master weights and
    both Adam moments are shared out. Rank 0 also keeps the averaged weights in float32.
    """
    width = 2 if half else 4
    trained = cost.parameters + lora_parameters
    weights = (cost.parameters + trained) * width
    shared = trained * (width + 12) // workers
    return weights + shared + 4 * cost.parameters


def _parameters(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total
