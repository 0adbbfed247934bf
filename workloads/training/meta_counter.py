"""Counting memory and operations on torch's device "meta", whose tensors have shapes and no content."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workloads.training.meta_kernels import META, call

T = TypeVar("T")


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages of meta tensors that are made within it and still alive, and operations.

    torch's own FlopCounterMode would do for the latter, but for its hooks on modules, which keep alive
    what a backward pass computes again.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result, operations = call(func, args, kwargs or {})
        self.operations += operations
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device == META:
                self._count(leaf.untyped_storage())
        return result

    def added(self, make: Callable[[], T]) -> tuple[T, int]:
        """What `make` makes, and the bytes by which it leaves more alive."""
        before = self.now
        made = make()
        return made, self.now - before

    def highest(self, work: Callable[[], object]) -> int:
        """The most that is alive at any time within `work`."""
        self.peak = self.now
        work()
        return self.peak

    def _count(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention by a fused kernel; on the meta device torch would write out the score matrix.

    Replaces torch's function, as a mode of torch does not reach what a backward pass computes again.
    """
    usual = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


def _fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: Tensor = kernel(query, key, value, 0.0, False, attn_mask=attn_mask)[0]
    return attended
