"""What a text encoder hands to a network for a batch of prompts.

Shapes: B batch, S tokens, D text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Prompt embeddings, and the mask of the families that have one."""

    embeddings: Tensor
    """(B, S, D)."""
    mask: Tensor | None = None
    """(B, S), 1 for a token and 0 for padding; None where the family attends to all."""

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice) -> "Conditioning":
        return Conditioning(self.embeddings[rows], None if self.mask is None else self.mask[rows])

    def select(self, index: Tensor) -> "Conditioning":
        """The rows at `index` (N,), in its order."""
        return Conditioning(self.embeddings[index], None if self.mask is None else self.mask[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return Conditioning(self.embeddings.to(device, dtype, non_blocking=True), mask)

    def expand(self, batch: int) -> "Conditioning":
        """This single prompt (B = 1) `batch` times, as a view."""
        mask = None if self.mask is None else self.mask.expand(batch, -1)
        return Conditioning(self.embeddings.expand(batch, -1, -1), mask)

    def replace(self, where: Tensor, other: "Conditioning") -> "Conditioning":
        """`other` in the rows in which `where` (B,) is true, this elsewhere."""
        row = where.view(-1, 1)
        embeddings = torch.where(row.unsqueeze(-1), other.embeddings, self.embeddings)
        if self.mask is None or other.mask is None:
            return Conditioning(embeddings)
        return Conditioning(embeddings, torch.where(row, other.mask, self.mask))


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """One batch of all `parts`, in order."""
    masks = [part.mask for part in parts if part.mask is not None]
    return Conditioning(torch.cat([part.embeddings for part in parts]), torch.cat(masks) if masks else None)
