"""Ray Tune over Ray Train: which trials run when, and which are cut short.

Trials were expanded by `plan`, so Tune is given a list of them; it starts as many as fit, stops
the worse ones early if ASHA was asked for, and hands every report of every trial to `Ledger`.
A trial's Ray Train run has a fixed place in the storage, so it resumes there by itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from orchestrator.ledger import Ledger
from orchestrator.plan import DRIVER_CPUS, Plan
from orchestrator.trial import run_trial
from orchestrator.trial_job import TrialJob


def search(plan: Plan, jobs: Sequence[TrialJob], ledger: Ledger, at_once: int) -> None:
    """Runs all `jobs`, `at_once` at a time; what they came to is in `ledger`."""
    config = tune.TuneConfig(
        max_concurrent_trials=at_once,
        scheduler=_scheduler(plan),
        trial_name_creator=lambda trial: jobs[trial.config["job"]].trial.name,
        trial_dirname_creator=lambda trial: jobs[trial.config["job"]].trial.name,
    )
    run = tune.RunConfig(
        name=plan.digest,
        storage_path=f"{jobs[0].root}/{plan.sweep.name}/tune",
        callbacks=[_ToLedger(jobs, ledger)],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=0),
    )
    trainable = tune.with_resources(tune.with_parameters(run_trial, jobs=list(jobs)), {"CPU": DRIVER_CPUS})
    space = {"job": tune.grid_search(list(range(len(jobs))))}
    tune.Tuner(trainable, param_space=space, tune_config=config, run_config=run).fit()


def _scheduler(plan: Plan) -> TrialScheduler | None:
    search = plan.sweep.search
    if search.scheduler == "none":
        return None
    return ASHAScheduler(
        # The share of a trial's own steps, in per cent, as trials may differ in length.
        time_attr="progress",
        metric=search.metric,
        mode="max",
        max_t=101,
        grace_period=max(1, round(100 * search.grace)),
        reduction_factor=search.reduction_factor,
    )


class _ToLedger(tune.Callback):  # type: ignore[misc]
    """Passes Tune's events on, by trial."""

    def __init__(self, jobs: Sequence[TrialJob], ledger: Ledger) -> None:
        self._jobs, self._ledger = jobs, ledger

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings for a restore of its own, which is not used: see `plan`."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ledger.started(self._job(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._ledger.reported(self._job(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ledger.ended(self._job(trial), "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = ""
        if trial.error_file and os.path.exists(trial.error_file):
            reason = Path(trial.error_file).read_text(errors="replace")
        self._ledger.ended(self._job(trial), reason or "the trial's process ended without a word")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._ledger.tick()

    def _job(self, trial: Any) -> TrialJob:
        job: TrialJob = self._jobs[trial.config["job"]]
        return job
