"""Memory that DeepSpeed's ZeRO-2 engines hold, for the estimate of a training step.

`Zero2` is the engine factory of a `StepTask` (`workloads.training.memory_estimate`). Its engines allocate on
the device "meta" what stage 2 of DeepSpeed allocates around a network (`training.deepspeed_engine`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workloads.training.meta_kernels import META

BUCKET_ELEMENTS = 500_000_000
"""Gradient elements that DeepSpeed collects before it reduces them: its own default."""


@dataclass(frozen=True)
class Zero2:
    """ZeRO-2 over `workers`: gradients, optimizer state and average are sharded, weights are replicated."""

    workers: int
    buckets: int = 2
    """Gradient buckets of several workers: 2 where communication overlaps computation (GPUs), else 1."""

    def __call__(self, module: nn.Module) -> "PlannedZero2Engine":
        """Return the stand-in for one worker's engine around `module`."""
        return PlannedZero2Engine(module, self)


class PlannedZero2Engine:
    """Stand-in for `deepspeed_engine.Engine`: holds its memory from the second step on, updates nothing."""

    def __init__(self, module: nn.Module, zero: Zero2) -> None:
        self.module = module
        self._zero = zero
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._dtype = self._trained[0].dtype
        self._elements = sum(p.numel() for p in self._trained)
        # Float32 master weights and both moments of AdamW.
        self._state = [self._shard(torch.float32) for _ in range(3)]
        self.weights: dict[str, Tensor] = {"weights": self._state[0]}
        if zero.workers > 1:
            # A gradient moves into a bucket, and from there into this worker's shard.
            for parameter in self._trained:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        """Back-propagate the scalar `loss`, then allocate what the update allocates."""
        # Each name bound here keeps its memory until the update ends.
        buckets, _shard = self._gradient_buffers()
        loss.backward()  # type: ignore[no-untyped-call]
        buckets.clear()
        _flat = self._shard(self._dtype)
        _widened = _flat.to(torch.float32)
        for parameter in self._trained:
            _drop_gradient(parameter)

    def _gradient_buffers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the buckets and the gradient shard of one of several workers; a lone worker has neither."""
        if self._zero.workers == 1:
            return [], []
        size = min(self._elements, BUCKET_ELEMENTS)
        buckets = [torch.empty(size, dtype=self._dtype, device=META) for _ in range(self._zero.buckets)]
        return buckets, [self._shard(self._dtype)]

    def _shard(self, dtype: torch.dtype) -> Tensor:
        """Return one worker's flat share of all trained elements, rounded up."""
        return torch.empty(-(-self._elements // self._zero.workers), dtype=dtype, device=META)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
