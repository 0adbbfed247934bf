"""A look at MLflow that changes nothing: whether it answers, accepts the login, and is of this version."""

import os
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.version import VERSION
from sqlalchemy.engine import make_url

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.tracking.server import refusal

SECONDS = 10


def probe(uri: str, experiment: str) -> str:
    """Return what is at `uri`, in words: a server with its version, or a database.

    Args:
        uri: as `tracking_uri` returns it.
        experiment: name of the sweep, for the error's text.

    Raises:
        UserError: it does not answer, is no MLflow, or refuses the login.
    """
    return _server(uri, experiment) if uri.startswith(("http", "databricks")) else _database(uri)


def _server(uri: str, experiment: str) -> str:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
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
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=SECONDS) as answer:
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
