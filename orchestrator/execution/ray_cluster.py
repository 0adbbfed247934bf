"""Connection to Ray: the cluster that RAY_ADDRESS names, or one that runs on this machine for the launch."""

import ipaddress
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import ray

from orchestrator.common.errors import UserError
from orchestrator.common.library_logging import LOOPBACK, process_environment, silence_loggers
from orchestrator.common.signals import defer_first_interrupt, signals_ignored
from orchestrator.data.ray_data import prepare_data_context
from orchestrator.execution.ray_address import ray_address, submitted_variables

OWN_RAY = {
    # This machine is not preempted, and each watcher costs a process of some seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # By default workers have a niceness of 15, so that Ray's own processes come before those that train.
    "RAY_worker_niceness": "0",
    # Metrics and events for a dashboard and a Prometheus that do not exist; two fifths of Ray's CPU time.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "REPORTER_UPDATE_INTERVAL_MS": str(24 * 3600 * 1000),
}
"""Variables of a Ray that the launch starts for itself."""
GCS_WAIT = {"RAY_gcs_server_port_wait_time_s": "1"}
"""Variable that makes Ray ask a head once, for 30 s, instead of 20 times, if it answers but is no Ray."""
TOKEN = Path(".ray/auth_token")
"""Ray's default token file, below the home folder."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
FOLDER_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
"""Variables of the folder below which an own Ray keeps its sockets and logs; the first that is set counts."""
SOCKET = f"/ray/session_2026-01-31_12-30-00_123456_{os.getpid()}/sockets/plasma_store"
"""Longest path of a socket below that folder, with the time and process of Ray's start."""
LONGEST_FOLDER = 107 - len(SOCKET)
"""Bytes of that folder's path; a socket's whole path has at most 107 (sun_path in unix(7), less its end)."""


@contextmanager
def connected() -> Iterator[None]:
    """Connect to Ray during a with-block.

    Raises:
        UserError: the named cluster does not answer, or Ray cannot be started on this machine.
    """
    address = ray_address()
    try:
        # An interrupt in the middle could leave processes behind, and is lost in Python's hooks of a fork.
        with defer_first_interrupt() as interrupted:
            _join(address) if address else _start_own()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(_described(error, address)) from None
    except SystemExit:
        # Ray's own handler of SIGTERM, which would end the process with another status and without a line.
        raise KeyboardInterrupt from None
    try:
        if interrupted.is_set():
            raise KeyboardInterrupt
        prepare_data_context()
        silence_loggers()
        yield
    finally:
        with signals_ignored():
            ray.shutdown()


def _join(address: str) -> None:
    """Join a cluster; variables that the job was submitted with are its workers' already."""
    given = submitted_variables()
    ours = {name: value for name, value in process_environment().items() if name not in given}
    with patch.dict(os.environ, GCS_WAIT):
        _init(address, runtime_env={"env_vars": ours})


def _init(address: str, **options: object) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)


def _described(error: Exception, address: str | None) -> str:
    reason = (str(error).splitlines() or [repr(error)])[0][:200]
    if address:
        return (
            f"Ray at {address}: {reason}; check that it runs, and that RAY_ADDRESS, RAY_AUTH_MODE and "
            f"RAY_AUTH_TOKEN are those of its head"
        )
    return f"Ray on this machine: cannot be started: {reason}; its logs are in {_folder()}/ray/session_latest"


def _start_own() -> None:
    """Start a Ray that is reachable from this machine only, with its owner's token.

    Its processes inherit this process's environment; a runtime environment would start each of them twice.
    """
    _check_folder()
    if not any(name in os.environ for name in TOKEN_VARIABLES):
        _make_token(Path.home() / TOKEN)
    with patch.dict(os.environ, {**process_environment(), **OWN_RAY}):
        _init("local", include_dashboard=False)
    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        ray.shutdown()
        raise RuntimeError(f"it would listen to other machines: set {LOOPBACK}=0 before ray is imported")


def _folder() -> str:
    """Return the folder below which an own Ray keeps its sockets and logs."""
    return next((os.environ[name] for name in FOLDER_VARIABLES if os.environ.get(name)), "/tmp")


def _check_folder() -> None:
    """Check that Ray's sockets and logs can be made.

    Raises:
        UserError: the folder's path is too long for sockets, or it cannot be written.
    """
    folder = _folder()
    name = next((name for name in FOLDER_VARIABLES if os.environ.get(name)), "/tmp")
    if (length := len(os.fsencode(folder))) > LONGEST_FOLDER:
        raise UserError(
            f"{name}={folder}: has {length} bytes, and Ray's sockets allow {LONGEST_FOLDER}: set RAY_TMPDIR "
            f"to a folder with a shorter path, as in RAY_TMPDIR=/tmp"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{name}={folder}: Ray cannot write its sockets and logs there ({error.strerror}): set "
            f"RAY_TMPDIR to a folder that you can write"
        ) from None


def _make_token(path: Path) -> None:
    """Write a token that only its owner can read, unless one exists; Ray would write it readable for all.

    Raises:
        UserError: the home folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        path.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"{path}: the token of an own Ray cannot be written there ({error.strerror}): set HOME to a "
            f"folder that you can write, or RAY_AUTH_TOKEN to a secret of 64 hexadecimal digits"
        ) from None
