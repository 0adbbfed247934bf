"""A sweep's own metrics for Prometheus, exported by the Ray node that the launch runs on.

A Ray that the launch starts for itself (see `ray_cluster`) exports nothing. Ray puts `ray_` before each
name; `infra/kubernetes/components/monitoring/dashboard.json` shows the metrics.
"""

import time
from collections.abc import Sequence
from typing import get_args

from ray.util.metrics import Gauge

from orchestrator.results.record import Status, TrialRecord

LABELS = ("sweep",)


class PrometheusGauges:
    """All gauges of one sweep; needs a connected Ray."""

    def __init__(self, sweep: str) -> None:
        """Create the gauges of the sweep of this name."""
        self._sweep = {"sweep": sweep}
        self._trials = Gauge("distillation_trials", "Trainings by status.", ("sweep", "status"))
        self._rate = Gauge("distillation_samples_per_second", "Sum over the running trainings.", LABELS)
        self._gpu_hours = Gauge("distillation_gpu_hours", "GPU-hours held, over all launches.", LABELS)
        self._age = Gauge(
            "distillation_checkpoint_age_seconds",
            "Largest age of a running training's newest checkpoint.",
            LABELS,
        )
        self._restarts = Gauge(
            "distillation_restarts", "Training groups that were started again in this launch.", LABELS
        )

    def update(self, records: Sequence[TrialRecord], gpu_hours: float, restarts: int) -> None:
        """Set all gauges; `restarts` counts since the launch began."""
        for status in get_args(Status):
            count = sum(record.status == status for record in records)
            self._trials.set(count, {**self._sweep, "status": status})
        running = [record for record in records if record.status == "running"]
        samples = sum(record.rate * record.trial.train.batch_size for record in running)
        ages = [time.monotonic() - record.checkpointed for record in running if record.checkpointed]
        self._rate.set(samples, self._sweep)
        self._gpu_hours.set(gpu_hours, self._sweep)
        self._age.set(max(ages, default=0.0), self._sweep)
        self._restarts.set(restarts, self._sweep)
