"""The inputs of a training step; imports no network code, so that data processes start quickly."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workloads.backbones.prompts.conditioning import Conditioning


@dataclass(frozen=True)
class Batch:
    """The B samples of one worker's step."""

    prompts: Conditioning
    """Conditioning of the B prompts."""
    negatives: Conditioning | None = None
    """Conditioning of the B negative prompts under NASA-T; None without negative prompts."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further inputs of the objective by column name, each (B, W); see `columns`."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """Return the batch on `device`: conditioning in `dtype`, columns in float32."""
        negatives = None if self.negatives is None else self.negatives.to(device, dtype)
        columns = {n: c.to(device, torch.float32, non_blocking=True) for n, c in self.columns.items()}
        return Batch(self.prompts.to(device, dtype), negatives, columns)
