"""What a step learns from. It loads no network's code, so that what only moves batches starts quickly."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workloads.backbones.conditioning import Conditioning


@dataclass(frozen=True)
class Batch:
    """What one step of a worker learns from."""

    prompts: Conditioning
    """Of B prompts."""
    negatives: Conditioning | None = None
    """Of B negative prompts, under NASA-T."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the objective needs of each prompt, (B, W) each; see `columns`."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """On `device`; what networks read is in `dtype`."""
        negatives = None if self.negatives is None else self.negatives.to(device, dtype)
        columns = {n: c.to(device, torch.float32, non_blocking=True) for n, c in self.columns.items()}
        return Batch(self.prompts.to(device, dtype), negatives, columns)
