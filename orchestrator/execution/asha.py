"""Early stopping of the worse trials: Tune's ASHA decides, the training itself stops.

Tune would drop a stopped trial's process, or hand it on to the next trial, while the training group that it
started continues and keeps its resources. So the group is asked to stop, as when a launch is interrupted, and
Tune sees a trial that has finished.
"""

from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.common.storage import Store
from orchestrator.config.schema import Search
from orchestrator.jobs import PROGRESS, PRUNED, REPORT, TrainingJob


class PruneByRequest(ASHAScheduler):  # type: ignore[misc]
    """ASHA (Li et al. 2020) over the share of a trial's own steps, as trials differ in length."""

    def __init__(self, settings: Search, metric: str | None, store: Store) -> None:
        """Rank trials by `metric`, highest first; stop requests are written to the storage."""
        super().__init__(
            time_attr=PROGRESS,
            metric=metric,
            mode="max",
            max_t=101,
            grace_period=max(1, round(100 * settings.grace)),
            reduction_factor=settings.reduction_factor,
        )
        self._store = store
        self._asked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing for Tune to pickle: its own restore is not used."""
        return {}

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ask the workers of a worse trial to stop; always let Tune continue."""
        job = trial.config["job"]
        if not isinstance(job, TrainingJob) or trial.trial_id in self._asked:
            return str(TrialScheduler.CONTINUE)
        decision = super().on_trial_result(controller, trial, result)
        if decision == TrialScheduler.STOP and not result[REPORT].ended:
            self._asked.add(trial.trial_id)
            self._store.write(job.stop_request, PRUNED.encode())
        return str(TrialScheduler.CONTINUE)
