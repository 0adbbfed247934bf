"""A sweep's own figures for Prometheus, beside Ray's: exported by the Ray node that the launch runs on.

A Ray of the launch's own (see `cluster`) exports nothing.
Ray puts `ray_` before each name. `infra/kubernetes/components/monitoring/dashboard.json` shows them.
"""

import time
from collections.abc import Sequence
from typing import get_args

from ray.util.metrics import Gauge

from orchestrator.results.ledger import Entry, Status

SWEEP = ("sweep",)


class PrometheusGauges:
    """All figures of one sweep; needs a connected Ray."""

    def __init__(self, sweep: str) -> None:
        self._sweep = {"sweep": sweep}
        self._trials = Gauge("distillation_trials", "Trainings by status.", ("sweep", "status"))
        self._rate = Gauge("distillation_samples_per_second", "Of all trainings that run.", SWEEP)
        self._gpu_hours = Gauge("distillation_gpu_hours", "Held so far, over all launches.", SWEEP)
        self._age = Gauge(
            "distillation_checkpoint_age_seconds", "Of the running training whose last is oldest.", SWEEP
        )
        self._restarts = Gauge(
            "distillation_restarts",
            "Times that workers were started again, in this launch.",
            SWEEP,
        )

    def show(self, entries: Sequence[Entry], gpu_hours: float, restarts: int) -> None:
        """The figures of now; `restarts`: since the launch began."""
        for status in get_args(Status):
            count = sum(entry.status == status for entry in entries)
            self._trials.set(count, {**self._sweep, "status": status})
        running = [entry for entry in entries if entry.status == "running"]
        samples = sum(entry.rate * entry.trial.train.batch_size for entry in running)
        ages = [time.monotonic() - entry.checkpointed for entry in running if entry.checkpointed]
        self._rate.set(samples, self._sweep)
        self._gpu_hours.set(gpu_hours, self._sweep)
        self._age.set(max(ages, default=0.0), self._sweep)
        self._restarts.set(restarts, self._sweep)
