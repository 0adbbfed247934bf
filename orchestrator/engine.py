"""DeepSpeed, and nobody else: one ZeRO-2 engine around one network."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workloads.settings import TrainSettings

ZERO_STAGE = 2


class Engine:
    """A network with its optimiser, sharded over the workers; callable like the network."""

    def __init__(self, module: nn.Module, learning_rate: float, train: TrainSettings) -> None:
        """Wraps `module`, whose parameters' dtype decides the precision.

        The process group must be up; every worker calls this at the same time.
        """
        import deepspeed

        self.module = module
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=learning_rate,
            betas=train.adam_betas,
            weight_decay=train.weight_decay,
            fused=trained[0].is_cuda,
        )
        self._engine: Any = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=_config(train, trained[0].dtype == torch.bfloat16),
            dist_init_required=False,
        )[0]

    @property
    def zero_stage(self) -> int:
        """The stage that DeepSpeed itself reports."""
        return int(self._engine.zero_optimization_stage())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        """Back-propagates the scalar `loss`, averages gradients over workers, updates."""
        self._engine.backward(loss)
        self._engine.step()

    def save(self, folder: Path) -> None:
        """Writes this worker's part of the state; every worker calls it."""
        self._engine.save_checkpoint(str(folder), tag="state")

    def load(self, folder: Path) -> None:
        """Takes up the state that `save` wrote, on as many workers.

        Raises:
            RuntimeError: DeepSpeed found no usable state there.
        """
        if self._engine.load_checkpoint(str(folder), tag="state")[0] is None:
            raise RuntimeError(f"checkpoint {folder} holds no state of DeepSpeed")


def prepare_process() -> None:
    """To be called once in a worker, before any engine is made and with its process group up."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # It serves inference_all_reduce alone, and compiling it on first use takes minutes.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)


def _config(train: TrainSettings, half: bool) -> dict[str, Any]:
    workers = torch.distributed.get_world_size()
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // workers,
        "zero_optimization": {"stage": ZERO_STAGE, "overlap_comm": torch.cuda.is_available()},
        # torch's AdamW is not on DeepSpeed's list; nothing in ZeRO-2 depends on that list.
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": train.gradient_clip,
        "bf16": {"enabled": half},
        "steps_per_print": 10**9,
    }
