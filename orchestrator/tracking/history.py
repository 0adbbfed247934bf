"""Reading of a sweep's trainings from MLflow, as plain rows."""

import difflib
import os
from pathlib import Path
from threading import Event

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from orchestrator.analysis.seed_study import HIGHER_IS_BETTER
from orchestrator.analysis.training import Training
from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.tracking.client import CLOSE_SECONDS, Tracker
from orchestrator.tracking.queries import child_runs
from orchestrator.tracking.relocation import check_place

PLAIN = ("", "none/", "under_none.")
"""Prefixes of a metric's name: none, or those of the plain student in the second search."""


def read_sweep(uri: str, experiment: str) -> tuple[str, list[Training]]:
    """Return the parent run and the trainings of the newest sweep in `experiment` that has any.

    Raises:
        UserError: MLflow does not answer, its storage was moved, or the experiment or a sweep in it does not
            exist.
    """
    _check_exists(uri)
    # MLflow's own retries take minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    shown = redact(uri)
    try:
        client = MlflowClient(uri)
        check_place(uri, client)
        found = _experiment(client, experiment, shown)
        sweeps = client.search_runs([found], "tags.sweep LIKE '%'")
        # A parent without trainings is left where its trials went below a newer one, or have not begun.
        read = ((run.info.run_id, read_trainings(client, found, run.info.run_id)) for run in sweeps)
        parent, trainings = next((each for each in read if each[1]), ("", []))
    except MlflowException as error:
        reason = redact(str(error)).splitlines()[0][:300]
        raise UserError(f"tracking {shown}: MLflow does not answer: {reason}") from None
    if not trainings:
        raise UserError(f"experiment {experiment!r} at {shown}: contains no training of a sweep")
    return parent, trainings


def read_trainings(client: MlflowClient, experiment: str, parent: str) -> list[Training]:
    """Return all trainings below a parent run, in the order of their first records."""
    runs = child_runs(client, experiment, parent)
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_name))
    return [_training(client, run) for run in runs if "seed" in run.data.params]


def recorded_trainings(tracker: Tracker) -> list[Training]:
    """Return a launch's trainings once all its records are sent; none if MLflow does not answer for long."""
    recorded = Event()
    tracker.then(recorded.set)
    if not recorded.wait(CLOSE_SECONDS):
        return []
    return tracker.ask(lambda: read_trainings(tracker.client, tracker.experiment, tracker.parent))


def _training(client: MlflowClient, run: Run) -> Training:
    histories: dict[str, list[float]] = {}
    for metric in HIGHER_IS_BETTER:
        name = next((p + metric for p in PLAIN if p + metric in run.data.metrics), None)
        if name is not None:
            looks = sorted(client.get_metric_history(run.info.run_id, name), key=lambda each: each.step)
            histories[metric] = [each.value for each in looks]
    params, tags = dict(run.data.params), run.data.tags
    # MLflow keeps the tag of a run that was reopened, so the tag counts only for a run that has ended.
    status = tags.get("status", "") if run.info.status in ("FINISHED", "FAILED") else ""
    return Training(run.info.run_name, params["backbone"], int(params["seed"]), params, status, histories)


def _check_exists(uri: str) -> None:
    """Check that a SQLite file exists, since MLflow would create an empty one."""
    if uri.startswith("sqlite"):
        database = make_url(uri).database
        if not database or not Path(database).is_file():
            raise UserError(
                f"tracking {uri}: the database does not exist: give --tracking-uri, as in "
                f"sqlite:///results/mlflow.db or http://HOST:PORT"
            )


def _experiment(client: MlflowClient, name: str, shown: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "deleted":
        return str(found.experiment_id)
    names = [each.name for each in client.search_experiments()]
    near = difflib.get_close_matches(name[:64], names, n=1, cutoff=0)
    state = "was deleted" if found is not None else "does not exist"
    raise UserError(
        f"experiment {name!r} at {shown}: {state}" + (f"; the nearest name is {near[0]!r}" if near else "")
    )
