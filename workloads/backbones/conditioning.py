"""What a text encoder hands to a network for a batch of prompts.

Shapes: B batch, S tokens, D text width, P pooled width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Prompt embeddings, and what goes with them in some families; the first axis of all is B."""

    embeddings: Tensor
    """(B, S, D)."""
    mask: Tensor | None = None
    """(B, S), 1 for a token and 0 for padding; None where the family attends to all."""
    pooled: Tensor | None = None
    """(B, P), of a whole prompt each; None where the family has none."""

    @property
    def parts(self) -> dict[str, Tensor]:
        """The tensors that there are, by their names here."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice) -> "Conditioning":
        return self._each(lambda tensor: tensor[rows])

    def select(self, index: Tensor) -> "Conditioning":
        """The rows at `index` (N,), in its order."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """On `device`, and in `dtype` but for the mask."""
        return self._each(
            lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype, non_blocking=True)
        )

    def expand(self, batch: int) -> "Conditioning":
        """This single prompt (B = 1) `batch` times, as a view."""
        return self._each(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def replace(self, where: Tensor, other: "Conditioning") -> "Conditioning":
        """`other` in the rows in which `where` (B,) is true, this elsewhere."""
        mine, theirs = self.parts, other.parts
        return Conditioning(
            **{n: torch.where(where.view(-1, *[1] * (t.dim() - 1)), theirs[n], t) for n, t in mine.items()}
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        return Conditioning(**{name: change(tensor) for name, tensor in self.parts.items()})


def concatenate(batches: Sequence[Conditioning]) -> Conditioning:
    """One batch of all `batches`, in order."""
    names = batches[0].parts
    return Conditioning(**{name: torch.cat([batch.parts[name] for batch in batches]) for name in names})
