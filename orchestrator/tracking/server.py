"""Choice of the MLflow: an embedded one in the storage, or a server that the user names."""

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.tracking.ui_view import QUERY

DATABASE = "mlflow.db"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
GIVE_SERVER = "give tracking.uri, or --tracking-uri, of an MLflow server"
SCHEMES = ("http", "https", "databricks", *DATABASES)


def tracking_uri(given: str | None, store: Store) -> str:
    """Return the given URI, else MLFLOW_TRACKING_URI, else SQLite in the storage.

    Raises:
        UserError: MLflow does not accept such a URI, the driver of a database is not installed, or the
        storage
            is a bucket and the URI is not a server's.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        if not store.local:
            raise UserError(f"storage {store.root}: a bucket cannot hold an SQLite file: {GIVE_SERVER}")
        return f"sqlite:///{store.root.removeprefix('file://')}/{DATABASE}"
    scheme = uri.partition(":")[0].split("+")[0]
    if scheme not in SCHEMES:
        raise UserError(f"tracking.uri {redact(uri)}: give http(s)://, sqlite:/// or postgresql://")
    if scheme in DATABASES:
        if not store.local:
            raise UserError(
                f"tracking.uri {redact(uri)}: with a database alone and the storage "
                f"{store.root}, MLflow would leave models and pictures in this folder: {GIVE_SERVER}"
            )
        _check_database(uri)
    elif scheme != "databricks" and not _host(uri):
        raise UserError(f"tracking.uri {redact(uri)}: has no host: give http://HOST:PORT")
    return uri


def refusal(uri: str, error: Exception, name: str) -> str:
    """Return the message for an error of MLflow at the start of the sweep `name`."""
    shown, reason = redact(uri), redact(str(error)).splitlines()[0][:300]
    code = getattr(error, "error_code", "")
    if code == "UNAUTHENTICATED":
        return (
            f"tracking {shown}: refuses the login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if code == "PERMISSION_DENIED":
        return (
            f"tracking {shown}: refuses ({reason}): the experiment {name!r} may belong to another login: ask "
            f"its owner or an administrator for permission to edit it, or give this sweep another name"
        )
    return f"tracking {shown}: MLflow does not answer: {reason}"


def _host(uri: str) -> str | None:
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None


def _check_database(uri: str) -> None:
    """Check that SQLAlchemy can read the URI and has a driver for the database."""
    try:
        url = make_url(uri)
        url.get_dialect().import_dbapi()
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).parent.is_dir():
            raise ValueError(f"the folder {Path(url.database).parent} does not exist: create it")
    except (ImportError, SQLAlchemyError, ValueError) as error:
        reason = redact(str(error)).splitlines()[0][:200]
        raise UserError(f"tracking.uri {redact(uri)}: cannot be used: {reason}") from None


def view_address(uri: str, experiment_id: str) -> str:
    """Return the address of MLflow's table of training runs; `serve_command` serves a database there."""
    server = redact(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{experiment_id}/runs?{QUERY}"


def serve_command(uri: str) -> str:
    """Return the command that serves the pages of a database; empty if `uri` is a server."""
    if uri.startswith("http"):
        return ""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite") and path.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(uri))}"
