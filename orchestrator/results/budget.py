"""GPU-hours that a sweep's trials have held, over all its launches, and the sweep's budget.

A training holds its GPUs from the moment its workers first run until it ends, also while a lost node
is replaced; a small trial holds them from its start. Time in which other nodes start, wait or stop is not
counted: it belongs to the cluster and appears on the cloud's own bill.
"""

import time

from orchestrator.common.errors import UnfinishedError
from orchestrator.common.storage import Store
from orchestrator.planning.plan import Plan


class GpuHourBudget:
    """Counter of GPU-hours, kept in the storage, with the limit `budget.max_gpu_hours`."""

    def __init__(self, plan: Plan, store: Store) -> None:
        """Read the count of earlier launches."""
        self._name, self._budget, self._store = plan.sweep.name, plan.sweep.budget, store
        self._counts = plan.gpus_per_trial > 0 or (plan.infer is not None and plan.infer.infer.gpus > 0)
        self._file = f"{plan.sweep.name}/spent.json"
        self._ended = store.read_json(self._file)["gpu_hours"] if store.exists(self._file) else 0.0
        """GPU-hours of trials that have ended, and of earlier launches."""
        self._held: dict[str, tuple[float, float]] = {}
        """GPUs and start (seconds since 1970) of each running trial."""

    def start(self, trial: str, gpus: float, since: float | None = None) -> None:
        """Count `gpus` for `trial` from `since` (seconds since 1970; by default now) until `end`."""
        if gpus:
            self._held.setdefault(trial, (gpus, time.time() if since is None else since))

    def end(self, trial: str) -> None:
        """Stop counting for `trial`."""
        if trial in self._held:
            self._ended += _gpu_hours(*self._held.pop(trial))

    @property
    def gpu_hours(self) -> float:
        """GPU-hours until now."""
        return self._ended + sum(_gpu_hours(*held) for held in self._held.values())

    @property
    def cost(self) -> float | None:
        """Price by `budget.price_per_gpu_hour`; None without one."""
        price = self._budget.price_per_gpu_hour
        return None if price is None else price * self.gpu_hours

    @property
    def used_up(self) -> bool:
        """True if `budget.max_gpu_hours` is reached."""
        return self._budget.max_gpu_hours is not None and self.gpu_hours >= self._budget.max_gpu_hours

    def check(self) -> None:
        """Refuse to continue once the budget is used up.

        Raises:
            UnfinishedError: with the GPU-hours.
        """
        if self.used_up:
            raise UnfinishedError(
                f"sweep {self._name}: {self.summary}: budget.max_gpu_hours is used up. Finished trials are "
                f"kept; with a higher budget the same command resumes"
            )

    @property
    def summary(self) -> str:
        """GPU-hours, their limit and their price; empty for a sweep without GPUs."""
        if not self._counts:
            return ""
        most, cost = self._budget.max_gpu_hours, self.cost
        limit = "" if most is None else f" of {most:g}"
        return f"{self.gpu_hours:.2f}{limit} GPU-hours" + ("" if cost is None else f", cost {cost:,.2f}")

    def save(self) -> None:
        """Write the count to the storage, for the next launch."""
        if self._counts:
            self._store.write_json(self._file, {"gpu_hours": self.gpu_hours})


def _gpu_hours(gpus: float, since: float) -> float:
    return gpus * max(0.0, time.time() - since) / 3600
