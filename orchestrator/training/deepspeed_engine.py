"""One DeepSpeed ZeRO-2 engine around one network; the only module that imports DeepSpeed.

Private parts of DeepSpeed 0.19 that are used: its optimizer's partitions, offsets and padding (without them a
checkpoint would depend on the number of workers), and its gradient hooks. `tests/orchestrator/training/
test_deepspeed_engine.py` checks them, so that an upgrade fails there.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from orchestrator.planning.zero_memory import BUCKET_ELEMENTS
from workloads.settings.train import TrainSettings
from workloads.training.step import make_optimizer

ZERO_STAGE = 2
PIECE = 2**24
"""Weights of each worker that are gathered at a time."""


class Engine:
    """A network with its optimiser, sharded over the workers; callable like the network."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        train: TrainSettings,
        adam_betas: tuple[float, float] | None = None,
    ) -> None:
        """Wrap `module`, whose parameters' dtype determines the precision.

        `adam_betas` replace those of the training.

        The process group must exist; all workers call this together.
        """
        import deepspeed

        self.module = module
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = make_optimizer(trained, learning_rate, train, adam_betas)
        optimizer.register_step_pre_hook(_clipping(train.gradient_clip or math.inf))
        self._engine: Any = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=_config(train, trained),
            dist_init_required=False,
        )[0]
        self._zero: Any = self._engine.optimizer
        (self._weights,) = self._zero.single_partition_of_fp32_groups
        # DeepSpeed pads the last parts, so that all have the same size.
        self._own = self._weights.numel() - self._zero.groups_padding[0]
        if torch.distributed.get_world_size() == 1:
            # They copy gradients into buckets, to average them over workers. Without them DeepSpeed uses each
            # parameter's own gradient, as gradients are summed in the parameters' precision.
            for hook in self._zero._grad_acc_hooks:
                hook.remove()

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that DeepSpeed itself reports."""
        return int(self._engine.zero_optimization_stage())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        """Back-propagate the scalar `loss`, average gradients over workers, and update."""
        self._engine.backward(loss)
        self._engine.step()

    @property
    def weights(self) -> dict[str, Tensor]:
        """This worker's part of the trained weights, flat, in float32 whatever the network's precision.

        The parts of all workers, joined in their order, are the same for any number of workers. The tensor is
        the engine's own.
        """
        return {"weights": self._weights.detach()[: self._own]}

    def state(self) -> dict[str, Tensor]:
        """Return `weights`, the same part of AdamW's moments, and its step."""
        moments: dict[str, Tensor] = self._zero.optimizer.state[self._weights]
        own = {key: value[: self._own] if value.dim() else value for key, value in moments.items()}
        return {**self.weights, **own}

    @torch.no_grad()
    def load(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Load the `state` of all workers, in their order; any number of workers can load it.

        Raises:
            ValueError: the parts belong to a network of another size.
        """
        mine = {key: self._mine([part[key] for part in parts]) for key in parts[0]}
        self._weights.copy_(mine.pop("weights"))
        self._zero.optimizer.state[self._weights] = mine
        self._zero.update_lp_params()

    def part(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return this worker's part of all workers' `weights`, or of an average of them.

        Raises:
            ValueError: the parts belong to a network of another size.
        """
        return {key: self._mine([part[key] for part in parts])[: self._own] for key in parts[0]}

    def gather(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all workers' `weights`, or an average of them, by parameter name, on rank 0's host.

        All workers call this together; the result is empty on the others. A device holds one piece at a time.
        """
        (part,) = weights.values()
        workers, size = torch.distributed.get_world_size(), self._weights.numel()
        if workers == 1:
            return self._by_name(part.cpu())
        first = torch.distributed.get_rank() == 0
        whole = torch.empty(workers, size if first else 0)
        for start in range(0, size, PIECE):
            piece = part.new_zeros(min(PIECE, size - start))
            piece[: max(0, self._own - start)] = part[start : start + PIECE]
            pieces = [torch.empty_like(piece) for _ in range(workers)] if first else []
            torch.distributed.gather(piece, pieces or None)
            if first:
                whole[:, start : start + PIECE] = torch.stack(pieces).cpu()
        return self._by_name(whole.flatten()) if first else {}

    def _by_name(self, whole: Tensor) -> dict[str, Tensor]:
        """Return the trained parameters, cut out of all workers' joined parts."""
        trained = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
        places = zip(trained, self._zero.round_robin_bit16_offsets[0], strict=True)
        return {name: whole[at : at + p.numel()].view_as(p) for (name, p), at in places}

    def _mine(self, parts: Sequence[Tensor]) -> Tensor:
        """Return this worker's stretch of the joined `parts`, padded; of scalars, the first."""
        if parts[0].dim() == 0:
            return parts[0].to(self._weights.device)
        joined = torch.cat(list(parts))
        needed = self._zero.round_robin_bit16_offsets[0][-1] + self._zero.bit16_groups[0][-1].numel()
        if joined.numel() != needed:
            raise ValueError(f"{joined.numel()} weights where the network has {needed}")
        size, rank = self._weights.numel(), torch.distributed.get_rank()
        stretch = joined[rank * size : (rank + 1) * size]
        filled = stretch.new_zeros(size, device=self._weights.device)
        filled[: len(stretch)] = stretch
        return filled


def _clipping(limit: float) -> Callable[[Any, Any, Any], None]:
    """Return a hook that clips gradients to the norm `limit` over all workers before an optimiser's step.

    DeepSpeed's own clipping takes a norm of each tensor and then waits for the device to read the sum. As
    there, gradients that are not finite update nothing. Both values are attributes that torch's fused
    optimisers read, set by `GradScaler` otherwise.
    """

    def before(optimizer: Any, _arguments: Any, _named: Any) -> None:
        grads = [weights.grad for group in optimizer.param_groups for weights in group["params"]]
        squares = torch.stack([torch.linalg.vector_norm(grad).square() for grad in grads]).sum()
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(squares)
        norm = squares.sqrt()
        optimizer.grad_scale = (norm / limit).clamp(min=1)
        optimizer.found_inf = (~norm.isfinite()).float()

    return before


def prepare_process() -> None:
    """Prepare this worker's process; called once, with its process group, before an engine is made."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Two imports cost seconds and are not needed: its autotuner imports MLflow if it is installed, and one of
    # its optimisers loads torch.compile.
    plain = patch("deepspeed.runtime.compiler.compile", lambda: lambda function: function)
    with _absent("mlflow"), plain:
        import deepspeed.autotuning
        import deepspeed.runtime.zero.muon.original_muon
        from deepspeed.ops import __compatible_ops__

    # Only inference_all_reduce uses it, and compiling it on first use takes minutes.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Make imports of `module` fail within a with-block, as if it were not installed."""
    kept = sys.modules.pop(module, None)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if kept is not None:
            sys.modules[module] = kept


def _config(train: TrainSettings, trained: Sequence[nn.Parameter]) -> dict[str, Any]:
    workers = torch.distributed.get_world_size()
    overlapped = torch.cuda.is_available() and workers > 1
    weights = sum(parameter.numel() for parameter in trained)
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // workers,
        "zero_optimization": {
            "stage": ZERO_STAGE,
            "overlap_comm": overlapped,
            # Both copy each tensor in Python. On a CPU, without a stream to overlap the copies with,
            # sending whole buckets is faster; a lone worker has none.
            "contiguous_gradients": overlapped,
            "reduce_scatter": overlapped,
            "compute_grad_norm": False,
            # DeepSpeed allocates whole buckets, however small the network.
            "reduce_bucket_size": min(BUCKET_ELEMENTS, weights),
        },
        # torch's AdamW is not on DeepSpeed's list; nothing in ZeRO-2 depends on that list.
        "zero_allow_untested_optimizer": True,
        # See `_clipping`.
        "gradient_clipping": 0.0,
        "bf16": {"enabled": trained[0].dtype == torch.bfloat16},
        "steps_per_print": 10**9,
    }
