"""Conditioning of a network on a batch of prompts, as text encoders produce it.

Shapes: B batch, S tokens, D text width, P pooled width, N selected rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Prompt embeddings, with the mask or the pooled embeddings of some families; all have B rows."""

    embeddings: Tensor
    """(B, S, D)."""
    mask: Tensor | None = None
    """(B, S), 1 for a token and 0 for padding; None if the family attends to all tokens."""
    pooled: Tensor | None = None
    """(B, P), one embedding per whole prompt; None if the family has none."""
    guidance_scale: Tensor | None = None
    """(B,), guidance scales for a network that reads them; None for all others."""

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors that are not None, by field name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice) -> "Conditioning":
        return self._map(lambda tensor: tensor[rows])

    def select(self, index: Tensor) -> "Conditioning":
        """Return the rows at `index` (N,), in its order."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """Return the conditioning on `device`, in `dtype` except for mask and guidance scales."""
        moved = self._map(
            lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype, non_blocking=True)
        )
        return moved if self.guidance_scale is None else moved.at_scale(self.guidance_scale.to(device))

    def at_scale(self, scale: Tensor) -> "Conditioning":
        """Return these prompts for a network that reads guidance scales, with `scale` (B,)."""
        return replace(self, guidance_scale=scale)

    def unscaled(self) -> "Conditioning":
        """Return these prompts for a network that reads no guidance scales."""
        return replace(self, guidance_scale=None)

    def half(self) -> "Conditioning":
        """Return the conditioning on the CPU in half precision, as it is stored.

        Raises:
            ValueError: A value is infinite there; some text encoders have states beyond 65,504.
        """
        halved = self.to(torch.device("cpu"), torch.float16)
        if not all(part.isfinite().all() for part in halved.parts.values()):
            raise ValueError("its text encoder has states that half precision cannot hold")
        return halved

    def expand(self, batch: int) -> "Conditioning":
        """Repeat this single prompt (B = 1) `batch` times, as a view."""
        return self._map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def replace(self, where: Tensor, other: "Conditioning") -> "Conditioning":
        """Return `other` in the rows where the boolean `where` (B,) is true, and this one elsewhere.

        `other` has B rows, or one row for all. Its guidance scales are these if it has none.
        """
        mine = self.parts
        theirs = mine | other.parts
        return Conditioning(
            **{n: torch.where(where.view(-1, *[1] * (t.dim() - 1)), theirs[n], t) for n, t in mine.items()}
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        return Conditioning(**{name: change(tensor) for name, tensor in self.parts.items()})


def concatenate(batches: Sequence[Conditioning]) -> Conditioning:
    """Join `batches` along the batch axis, in order."""
    names = batches[0].parts
    return Conditioning(**{name: torch.cat([batch.parts[name] for batch in batches]) for name in names})
