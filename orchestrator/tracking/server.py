"""Choice of the MLflow, an embedded one in the storage or a server that the user names; a look at it."""

import os
import shlex
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.version import VERSION
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.tracking.ui_view import QUERY

DATABASE = "mlflow.db"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
GIVE_SERVER = "give tracking.uri, or --tracking-uri, of an MLflow server"
PROBE_SECONDS = 10
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


def probe(uri: str, experiment: str) -> str:
    """Return what is at `uri`, in words: a server with its version, or a database.

    Args:
        uri: as `tracking_uri` returns it.
        experiment: name of the sweep, for the error's text.

    Raises:
        UserError: it does not answer, is no MLflow, or refuses the login.
    """
    return _server(uri, experiment) if uri.startswith(("http", "databricks")) else _database(uri)


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


def _server(uri: str, experiment: str) -> str:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PROBE_SECONDS))
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(f"{refusal(uri, error, experiment)}{_proxy(uri)}") from None
    version = _version(uri)
    if version and version.split(".")[:2] != VERSION.split(".")[:2]:
        raise UserError(
            f"tracking {redact(uri)}: is MLflow {version}, and this environment has {VERSION}, "
            f"which alone was tested: install mlflow=={VERSION} there, then run mlflow db upgrade"
        )
    return f"{redact(uri)}: MLflow {version or 'of unknown version'} answers and accepts the login"


def _version(uri: str) -> str:
    """Return the server's version; empty if it does not tell."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=PROBE_SECONDS) as answer:
            text = answer.read(100).decode(errors="replace").strip()
    except (OSError, ValueError):
        return ""
    return text if text[:1].isdecimal() else ""


def _proxy(uri: str) -> str:
    """Return a hint at the proxy that requests to `uri` go through; empty if there is none."""
    host = urlsplit(uri).hostname or ""
    proxies = urllib.request.getproxies()
    if uri.partition(":")[0] not in proxies or urllib.request.proxy_bypass(host):
        return ""
    return f" (through the proxy of HTTP_PROXY: add {host} to NO_PROXY if it is inside your network)"


def _database(uri: str) -> str:
    shown, url = redact(uri), make_url(uri)
    if url.get_backend_name() == "sqlite":
        if not url.database or not Path(url.database).exists():
            return f"{shown}: the first launch makes this database"
        url = sqlalchemy.engine.URL.create(
            "sqlite", database=f"file:{url.database}", query={"mode": "ro", "uri": "true"}
        )
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = redact(str(error)).splitlines()[0][:300]
        raise UserError(
            f"tracking {shown}: the database does not answer: {reason}: check its address and login"
        ) from None
    finally:
        engine.dispose()
    return f"{shown}: the database answers, with {len(tables)} tables"
