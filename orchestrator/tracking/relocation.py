"""The place of an MLflow that is embedded in a storage, after the storage was moved or copied.

MLflow keeps the absolute path of each experiment's, run's and model's artifacts. Its interfaces cannot change
them, so `record_place` rewrites every text in its SQLite file that begins with the old path. It relies on no
name of a table.
"""

from itertools import product
from pathlib import Path

import sqlalchemy as sql
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store

DATABASE = "mlflow.db"
"""File of the embedded MLflow in a storage."""
ARTIFACTS = "artifacts"
"""Folder of its artifacts in the same storage."""
BUSY_SECONDS = 10.0


def check_place(uri: str, client: MlflowClient) -> None:
    """Check that an MLflow embedded in a storage was recorded where it is now.

    Args:
        uri: its tracking URI; a server's or another database's is not looked at.
        client: connected to it.

    Raises:
        UserError: the storage was moved or copied.
    """
    root = _storage_of(uri)
    if root is None:
        return
    old = _recorded_root(root, client)
    if old is not None:
        raise UserError(
            f"storage {root}: was recorded at {old} and has been moved or copied: run "
            f"python -m orchestrator.relocate {root}"
        )


def recorded_place(store: Store) -> str | None:
    """Return the place at which a local storage was recorded; None if it is where it was.

    Raises:
        UserError: the storage contains no MLflow.
    """
    root = Path(store.root.removeprefix("file://"))
    uri = f"sqlite:///{root / DATABASE}"
    if not store.local or _storage_of(uri) is None:
        raise UserError(f"storage {store.root}: has no {DATABASE} and {ARTIFACTS}/: give a folder of results")
    old = _recorded_root(root, MlflowClient(uri))
    return None if old is None else str(old)


def record_place(store: Store, old: str) -> None:
    """Replace the place `old` by that of the storage in all that its MLflow records.

    Raises:
        UserError: another program keeps the database from being written.
    """
    root = store.root.removeprefix("file://")
    try:
        _replace(Path(root) / DATABASE, old, root)
    except OperationalError as error:
        raise UserError(
            f"storage {root}: {DATABASE} cannot be written ({error.orig}): end the programs that use it, "
            f"such as mlflow ui, then run the same command"
        ) from None


def _storage_of(uri: str) -> Path | None:
    """Return the storage in which the MLflow of `uri` is embedded; None if it is not in one."""
    if not uri.startswith("sqlite"):
        return None
    database = Path(make_url(uri).database or "").resolve()
    embedded = database.name == DATABASE and (database.parent / ARTIFACTS).is_dir()
    return database.parent if embedded else None


def _recorded_root(root: Path, client: MlflowClient) -> Path | None:
    """Return the storage that an experiment names, if it is another one than the `root` that has its runs."""
    for experiment in client.search_experiments(ViewType.ALL):
        place = Path(experiment.artifact_location.removeprefix("file://"))
        if place.name != ARTIFACTS or place.resolve() == root / ARTIFACTS:
            continue
        # Artifacts may also lie elsewhere on purpose, when this database serves another storage.
        runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
        if any((root / ARTIFACTS / run.info.run_id).is_dir() for run in runs):
            return place.parent
    return None


def _replace(database: Path, old: str, new: str) -> None:
    """Replace the path `old` by `new` in all texts of the database that are it or lie below it.

    They may be paths or file:// URIs.
    """
    engine = sql.create_engine(f"sqlite:///{database}", connect_args={"timeout": BUSY_SECONDS})
    tables = sql.MetaData()
    tables.reflect(engine)
    columns = [each for table in tables.tables.values() for each in table.columns]
    with engine.begin() as connection:
        for column, scheme in product(columns, ("", "file://")):
            if isinstance(column.type, sql.String):
                before = scheme + old
                moved = scheme + new + sql.func.substr(column, len(before) + 1)
                inside = sql.or_(column == before, column.startswith(f"{before}/", autoescape=True))
                connection.execute(sql.update(column.table).where(inside).values({column: moved}))
    engine.dispose()
