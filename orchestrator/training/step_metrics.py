"""What a training says of itself: its losses, its speed, and whether its student has collapsed.

Losses stay on the device until they are read, every few steps, as means over steps and workers.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from orchestrator.jobs import Metrics
from workloads.objectives.base import SPREAD
from workloads.settings.train import TrainSettings

Batch = TypeVar("Batch")
LOGS_PER_TRAINING = 30
MOST_STEPS_BETWEEN_LOGS = 50


class Losses:
    """Of the steps since they were last read."""

    def __init__(self, train: TrainSettings, world: int, names: Sequence[str]) -> None:
        """`names`: what the objective tells of a step."""
        self._train, self._world, self._names = train, world, names
        self._pending: list[Tensor] = []
        self._waited = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """What was done until now is no part of the next steps' time."""
        self._clock = time.monotonic()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same, while the time that is spent waiting for them is counted."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def add(self, losses: Tensor) -> None:
        """What the objective tells (L,) of one step of this worker."""
        self._pending.append(losses)

    def due(self, step: int) -> bool:
        """Whether they are to be read after `step`."""
        every = min(max(1, self._train.steps // LOGS_PER_TRAINING), MOST_STEPS_BETWEEN_LOGS)
        return step == 1 or step % every == 0

    def read(self, step: int) -> Metrics:
        """Means over the steps since the last reading, and over the workers, all of which call this."""
        values = torch.stack(self._pending).mean(0)
        seconds, waited = ((t / len(self._pending)) for t in (time.monotonic() - self._clock, self._waited))
        self._pending.clear()
        self._waited = 0.0
        values = torch.cat([values, values.new_tensor([seconds, waited])])
        torch.distributed.all_reduce(values)
        *means, seconds, waited = (values / self._world).tolist()
        metrics: Metrics = {
            "step": step,
            "progress": 100 * step / self._train.steps,
            **dict(zip(self._names, means, strict=True)),
            "seconds_per_step": seconds,
            "samples_per_second": self._train.batch_size / seconds,
            "system/data_wait_percentage": 100 * waited / seconds,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_memory_megabytes": psutil.Process().memory_info().rss / 2**20,
        }
        if values.is_cuda:
            metrics["system/gpu_peak_memory_megabytes"] = torch.cuda.max_memory_allocated() / 2**20
        return metrics

    def collapse(self, metrics: Metrics, first_spread: float | None) -> str:
        """The stated rule, in words, if the student has collapsed by it; the same on all workers.

        `first_spread` is the pictures' at the first step; 0, of batches of one picture, tells nothing.
        """
        limit = self._train.collapse_ratio
        if not all(math.isfinite(metrics[name]) for name in self._names if name != SPREAD):
            return f"non-finite loss by step {metrics['step']}"
        if not limit or not first_spread:
            return ""
        ratio = metrics[SPREAD] / first_spread
        if limit <= ratio <= 1 / limit:
            return ""
        return f"pictures vary {ratio:.3g} times what they did at first, by step {metrics['step']}"
