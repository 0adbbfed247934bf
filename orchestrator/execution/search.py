"""Ray Tune over Ray Train: decides which trials run when, and which are cut short.

Two searches share one run of Tune. Trainings come from the plan, and as many start as fit. As soon as one has
made a student, that student's small trials (see `planning.inference`) join the queue and run on whatever the
trainings leave free. `TuneCallback` updates ledger, students and budget. A training's Ray Train run has a
fixed place in the storage, so it resumes there by itself.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from ray import tune

from orchestrator.common.signals import defer_first_interrupt
from orchestrator.execution.asha import PruneByRequest
from orchestrator.execution.job_queue import JobQueue, job_name
from orchestrator.execution.trainable import run_job, trial_resources
from orchestrator.execution.tune_callback import LaunchState, TuneCallback
from orchestrator.jobs import TrainingJob
from orchestrator.planning.plan import Plan

MAX_PENDING = 64
"""Trials that Tune may hold ready; the queue itself hands out no more than can run."""


def search(plan: Plan, trainings: Sequence[TrainingJob], state: LaunchState, max_trainings: int) -> None:
    """Run all `trainings`, `max_trainings` at a time, and the small trials of students that become ready.

    Raises:
        KeyboardInterrupt: the user interrupted it; trainings have written a checkpoint by then, if that
            took them less than `HAND_BACK_SECONDS`.
        UnfinishedError: the budget is used up, or nothing happened for `budget.no_progress_minutes`;
            likewise.
    """
    state.budget.check()
    # By default Tune asks a searcher for the next trial only when no other is about to start.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MAX_PENDING)
    queue = JobQueue(plan, trainings, state.students, max_trainings)
    with defer_first_interrupt() as asked:
        callback = TuneCallback(plan, state, queue, asked)
        try:
            _tuner(plan, state, queue, callback).fit()
        except KeyboardInterrupt:
            if not asked.is_set():
                state.budget.check()
                callback.check_progress()
            raise
        finally:
            callback.close()
            state.budget.save()


def _tuner(plan: Plan, state: LaunchState, queue: JobQueue, callback: TuneCallback) -> tune.Tuner:
    store, settings = state.students.store, plan.sweep.search
    asha = settings.scheduler == "asha"
    config = tune.TuneConfig(
        search_alg=queue,
        num_samples=-1,
        scheduler=PruneByRequest(settings, plan.sweep.ranked_by, store) if asha else None,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
        reuse_actors=True,
    )
    run = tune.RunConfig(
        name=plan.digest,
        storage_path=f"{store.root}/{plan.sweep.name}/tune",
        callbacks=[callback],
        verbose=0,
        # Failures of a trial's own process, as when its node dies; Train restarts the training group.
        failure_config=tune.FailureConfig(max_failures=plan.sweep.resources.max_failures),
    )
    return tune.Tuner(trainable(plan), tune_config=config, run_config=run)


def trainable(plan: Plan) -> Any:
    """Return the function that Tune runs. Every trial process unpickles it, so it must not name this
    module."""
    return tune.with_resources(run_job, partial(trial_resources, plan))


def _trial_name(trial: Any) -> str:
    return job_name(trial.config["job"])
