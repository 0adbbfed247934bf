"""Metrics of a training: its losses, its speed, and the test for a collapsed student.

Losses stay on the device until they are read, every few steps, as means over steps and workers.
Shape: L losses of the objective.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from workloads.objectives.base import SPREAD
from workloads.settings.train import TrainSettings

Batch = TypeVar("Batch")
REPORTS_PER_TRAINING = 30
MAX_STEPS_BETWEEN_REPORTS = 50


class StepMetrics:
    """Losses and timings of the steps since they were last read."""

    def __init__(self, train: TrainSettings, world: int, names: Sequence[str]) -> None:
        """Start empty; `names` are those of the objective's losses, in their order."""
        self._train, self._world, self._names = train, world, names
        self._pending: list[Tensor] = []
        self._waited = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Exclude the time until now from the duration of the next steps."""
        self._clock = time.monotonic()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches, and count the time spent waiting for them."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def add(self, losses: Tensor) -> None:
        """Add the losses (L,) of one step of this worker."""
        self._pending.append(losses)

    def due(self, step: int) -> bool:
        """Return true if a report is due after `step`."""
        every = min(max(1, self._train.steps // REPORTS_PER_TRAINING), MAX_STEPS_BETWEEN_REPORTS)
        # Means over whole rounds, as the losses of a student's steps differ.
        every = -(-every // self._train.student_steps) * self._train.student_steps
        return step == 1 or step % every == 0

    def read(self) -> dict[str, float]:
        """Return means over the steps since the last reading and over the workers, which all call this."""
        values = torch.stack(self._pending).mean(0)
        seconds, waited = ((t / len(self._pending)) for t in (time.monotonic() - self._clock, self._waited))
        self._pending.clear()
        self._waited = 0.0
        values = torch.cat([values, values.new_tensor([seconds, waited])])
        torch.distributed.all_reduce(values)
        *means, seconds, waited = (values / self._world).tolist()
        metrics = {
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

    def collapse(self, metrics: Mapping[str, float], step: int, first_spread: float | None) -> str:
        """Return a sentence if the student has collapsed, else an empty text; the same on all workers.

        Args:
            metrics: the last reading.
            step: the step after which it was read.
            first_spread: spread of the latents at the first step; 0, as with batches of one sample, and
                None turn the test off.
        """
        limit = self._train.collapse_ratio
        if not all(math.isfinite(metrics[name]) for name in self._names if name != SPREAD):
            return f"non-finite loss by step {step}"
        if not limit or not first_spread:
            return ""
        ratio = metrics[SPREAD] / first_spread
        if limit <= ratio <= 1 / limit:
            return ""
        return f"pictures vary {ratio:.3g} times as much as at first, by step {step}"
