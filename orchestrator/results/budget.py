"""What a sweep has cost so far: the GPU-hours that its trials have held, over all its launches.

A training holds its GPUs from the moment its workers first run until it ends, also while a lost node
of its is replaced; a small trial from its start. Time in which other nodes come, wait or go is not in
it: that is the cluster's, and on the cloud's own bill.
"""

import time

from orchestrator.common.errors import UnfinishedError
from orchestrator.common.storage import Store
from orchestrator.planning.plan import Plan


class GpuHourBudget:
    """Counts, keeps the count in the storage, and tells when the sweep's budget is used up."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._name, self._budget, self._store = plan.sweep.name, plan.sweep.budget, store
        self._counts = plan.gpus_per_trial > 0 or (plan.infer is not None and plan.infer.infer.gpus > 0)
        self._file = f"{plan.sweep.name}/spent.json"
        self._over = store.read_json(self._file)["gpu_hours"] if store.exists(self._file) else 0.0
        """GPU-hours of what is over, and of earlier launches."""
        self._held: dict[str, tuple[float, float]] = {}
        """GPUs and since when (seconds since 1970), by trial."""

    def begins(self, trial: str, gpus: float, since: float | None = None) -> None:
        """`trial` holds `gpus` from now on, or since that time (seconds since 1970), until it ends."""
        if gpus:
            self._held.setdefault(trial, (gpus, time.time() if since is None else since))

    def ends(self, trial: str) -> None:
        """`trial` holds nothing any more."""
        if trial in self._held:
            self._over += _gpu_hours(*self._held.pop(trial))

    @property
    def gpu_hours(self) -> float:
        """Until now."""
        return self._over + sum(_gpu_hours(*held) for held in self._held.values())

    @property
    def cost(self) -> float | None:
        """By `budget.price_per_gpu_hour`; None without one."""
        price = self._budget.price_per_gpu_hour
        return None if price is None else price * self.gpu_hours

    @property
    def used_up(self) -> bool:
        """Whether no more may be spent."""
        return self._budget.max_gpu_hours is not None and self.gpu_hours >= self._budget.max_gpu_hours

    def check(self) -> None:
        """Ends a launch for which nothing is left.

        Raises:
            UnfinishedError: with what was spent.
        """
        if self.used_up:
            raise UnfinishedError(
                f"sweep {self._name}: {self.words}: budget.max_gpu_hours is used up; what is finished is "
                f"kept, and with a higher budget the same command goes on"
            )

    @property
    def words(self) -> str:
        """GPU-hours, of how many, and their price; nothing for a sweep without GPUs."""
        if not self._counts:
            return ""
        most, cost = self._budget.max_gpu_hours, self.cost
        limit = "" if most is None else f" of {most:g}"
        return f"{self.gpu_hours:.2f}{limit} GPU-hours" + ("" if cost is None else f", cost {cost:,.2f}")

    def keep(self) -> None:
        """Writes the count to the storage, for the next launch."""
        if self._counts:
            self._store.write_json(self._file, {"gpu_hours": self.gpu_hours})


def _gpu_hours(gpus: float, since: float) -> float:
    return gpus * max(0.0, time.time() - since) / 3600
