"""Which MLflow: the embedded one in the storage, or a server that the user names."""

import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import UserError
from orchestrator.storage import Store

DATABASE = "mlflow.db"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def tracking_uri(given: str | None, store: Store) -> str:
    """The URI given by the user, else by MLFLOW_TRACKING_URI, else SQLite in the storage.

    Raises:
        UserError: no kind of URI that MLflow takes, or a bucket with no server given.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        if not store.local:
            raise UserError(
                f"storage {store.root} is a bucket, which cannot hold the embedded SQLite "
                f"tracking: give tracking.uri, or --tracking-uri, of an MLflow server"
            )
        return f"sqlite:///{store.root.removeprefix('file://')}/{DATABASE}"
    if urlsplit(uri).scheme.split("+")[0] not in SCHEMES:
        raise UserError(f"tracking.uri {without_secrets(uri)}: give http(s)://, sqlite:/// or postgresql://")
    return uri


def without_secrets(uri: str) -> str:
    """`uri` less any user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def look_command(uri: str, experiment_id: str) -> str:
    """How a person opens what was recorded, on the page of training runs.

    (MLflow's own start page is the one for language-model traces.)
    """
    page = f"#/experiments/{experiment_id}/runs"
    if uri.startswith("http"):
        return f"open {without_secrets(uri)}/{page}"
    path = uri.removeprefix("sqlite:///")
    try:
        path = "sqlite:///" + str(Path(path).relative_to(Path.cwd())) if uri.startswith("sqlite") else uri
    except ValueError:
        path = uri
    return f"mlflow ui --backend-store-uri {without_secrets(path)}   then open http://127.0.0.1:5000/{page}"
