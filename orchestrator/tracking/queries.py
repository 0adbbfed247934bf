"""Finds a sweep's experiment and its runs in MLflow, or refuses them with the reason."""

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.tracking.relocation import check_place
from orchestrator.tracking.server import refusal

PARENT_TAG = "mlflow.parentRunId"
PAGE = 1000
"""Runs in one answer of MLflow."""


def find_experiment(client: MlflowClient, uri: str, name: str, store: Store, known_run: str | None) -> str:
    """Return the id of the experiment `name`, which is created if there was none.

    Args:
        client: connected to `uri`.
        uri: MLflow's URI.
        name: the sweep.
        store: its storage, which holds the artifacts unless `uri` is a server.
        known_run: a run that the storage knows of, if there is one.

    Raises:
        UserError: MLflow does not answer or refuses the login, the storage was moved, or the experiment was
            deleted or has another name.
    """
    location = store.uri("artifacts") if store.local and not uri.startswith("http") else None
    try:
        check_place(uri, client)
        found = client.get_experiment_by_name(name)
        if found is None:
            _check_not_renamed(client, uri, name, known_run)
            return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        raise UserError(refusal(uri, error, name)) from None
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking {redact(uri)}: the experiment {name!r} was deleted: restore it with mlflow "
            f"experiments restore --experiment-id {found.experiment_id}, or give another name"
        )
    return str(found.experiment_id)


def check_run(client: MlflowClient, uri: str, experiment: str, run: str, trial: str) -> dict[str, str]:
    """Return the tags of the run of a finished trial.

    Raises:
        UserError: the run was deleted, this MLflow never had it, or it is in another experiment.
    """
    way_out = "or give this sweep another name"
    try:
        found = client.get_run(run)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        problem = "does not exist: give the tracking URI that it was recorded with"
    else:
        if found.info.lifecycle_stage == "deleted":
            problem = f"was deleted: restore it with mlflow runs restore --run-id {run}"
        elif found.info.experiment_id != experiment:
            other = client.get_experiment(found.info.experiment_id).name
            problem = f"is in the experiment {other!r}: rename experiments so that the sweep's has them"
        else:
            return dict(found.data.tags)
    raise UserError(f"tracking {redact(uri)}: run {run} of the finished trial {trial} {problem}, {way_out}")


def child_runs(client: MlflowClient, experiment: str, parent: str) -> list[Run]:
    """Return all runs below a parent run of the experiment, with one request for each page."""
    runs: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [experiment], tag_equals(PARENT_TAG, parent), max_results=PAGE, page_token=token or None
        )
        runs += page
        token = page.token or None
    return runs


def tag_equals(key: str, value: str) -> str:
    """Return the condition of a search that the tag `key` has this value.

    Raises:
        UserError: MLflow's searches have no way to write the value.
    """
    if "'" in value and '"' in value:
        raise UserError(
            f"{key} {value}: contains both kinds of quotes, which MLflow cannot search for: rename it"
        )
    quote = '"' if "'" in value else "'"
    return f"tags.`{key}` = {quote}{value}{quote}"


def _check_not_renamed(client: MlflowClient, uri: str, name: str, known_run: str | None) -> None:
    """Check that no experiment of another name holds the sweep's runs."""
    holder = None if known_run is None else _experiment_of(client, known_run)
    if holder is not None and holder.name != name and holder.lifecycle_stage != "deleted":
        raise UserError(
            f"tracking {redact(uri)}: the experiment of sweep {name} is called {holder.name!r} now: rename "
            f"it to {name!r} on MLflow's pages, or give the sweep another name"
        )


def _experiment_of(client: MlflowClient, run: str) -> Experiment | None:
    try:
        return client.get_experiment(client.get_run(run).info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
