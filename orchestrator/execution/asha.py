"""Cutting the worse trials short: Tune's ASHA decides, the training itself ends.

Tune would drop a stopped trial's process, or hand it on to the next trial, while the training
group that it started goes on and keeps its resources. So the group is told to end, like any other
that is handed back, and Tune sees a trial that has finished.
"""

from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.common.storage import Store
from orchestrator.config.schema import Search
from orchestrator.jobs import PRUNED, TrainingJob


class PruneByRequest(ASHAScheduler):  # type: ignore[misc]
    """ASHA (Li et al. 2020) over the share of a trial's own steps, as trials differ in length."""

    def __init__(self, settings: Search, metric: str | None, store: Store) -> None:
        super().__init__(
            time_attr="progress",
            metric=metric,
            mode="max",
            max_t=101,
            grace_period=max(1, round(100 * settings.grace)),
            reduction_factor=settings.reduction_factor,
        )
        self._store = store
        self._told: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune to pickle: its own way to go on is not used."""
        return {}

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never stops a trial; tells its workers to end."""
        job = trial.config["job"]
        if not isinstance(job, TrainingJob) or trial.trial_id in self._told:
            return str(TrialScheduler.CONTINUE)
        decision = super().on_trial_result(controller, trial, result)
        if decision == TrialScheduler.STOP and not result.get("finished"):
            self._told.add(trial.trial_id)
            self._store.write(job.notice, PRUNED.encode())
        return str(TrialScheduler.CONTINUE)
