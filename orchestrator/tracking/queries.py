"""Searches for runs in MLflow."""

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.common.errors import UserError

PARENT_TAG = "mlflow.parentRunId"
PAGE = 1000
"""Runs in one answer of MLflow."""


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
