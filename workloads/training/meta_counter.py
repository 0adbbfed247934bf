"""Counter of memory and operations on torch's device "meta", whose tensors have shapes and no content.

    with MemoryCounter() as counter, fused_attention():
        network, held = counter.measure_held(make_network)
        peak, operations = counter.measure_peak(step), counter.operations

All figures of memory are in bytes; an operation is a floating-point one, a multiply-add counts as two.
"""

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


class MemoryCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the live meta tensors that are made within it, and the operations that run.

    It counts storages, so that views cost nothing. torch's own `FlopCounterMode` counts operations too, but
    its hooks on modules keep activations alive that checkpointing drops.
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

    def measure_held(self, make: Callable[[], T]) -> tuple[T, int]:
        """Return the result of `make` and the bytes by which it increases the live total."""
        before = self.now
        made = make()
        return made, self.now - before

    def measure_peak(self, work: Callable[[], object]) -> int:
        """Return the largest live total during `work`, in bytes."""
        self.peak = self.now
        work()
        return self.peak

    def _count(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Compute attention by a fused kernel, as devices do; on "meta" torch materialises the score matrix.

    Replaces torch's function, as no public interface of torch 2.13 does the same: `sdpa_kernel` has no effect
    on meta tensors, and a `TorchFunctionMode` is off within `Tensor.backward`, where checkpoints recompute.
    """
    F.scaled_dot_product_attention = _fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _unfused


_unfused = F.scaled_dot_product_attention


def _fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """Return the attention output, of `query`'s shape, from the CPU's flash kernel.

    Where a step turns fused kernels off (`sdpa_kernel`), it is torch's own.
    """
    if not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        return _unfused(query, key, value, attn_mask)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: Tensor = kernel(query, key, value, 0.0, False, attn_mask=attn_mask)[0]
    return attended
