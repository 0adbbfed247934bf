"""Connection to Ray: the cluster that RAY_ADDRESS names, or one that runs on this machine for the launch."""

import ipaddress
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import ray

from orchestrator.common.errors import UserError
from orchestrator.common.library_logging import LOOPBACK, process_environment, silence_loggers
from orchestrator.data.ray_data import prepare_data_context

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
TOKEN = Path(".ray/auth_token")
"""Ray's default token file, below the home folder."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def connected() -> Iterator[None]:
    """Connect to Ray during a with-block.

    Raises:
        UserError: the named cluster does not answer, or Ray cannot be started on this machine.
    """
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _init(address, runtime_env={"env_vars": process_environment()})
        else:
            _start_own()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Ray at {address or 'this machine'}: {str(error).splitlines()[0][:200]}; check that it runs, "
            f"and that RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN are those of its head"
        ) from None
    prepare_data_context()
    silence_loggers()
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, **options: object) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)


def _start_own() -> None:
    """Start a Ray that is reachable from this machine only, with its owner's token.

    Its processes inherit this process's environment; a runtime environment would start each of them twice.
    """
    if not any(name in os.environ for name in TOKEN_VARIABLES):
        _make_token(Path.home() / TOKEN)
    with patch.dict(os.environ, {**process_environment(), **OWN_RAY}):
        _init("local", include_dashboard=False)
    if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
        ray.shutdown()
        raise RuntimeError(f"it would listen to other machines: set {LOOPBACK}=0 before ray is imported")


def _make_token(path: Path) -> None:
    """Write a token that only its owner can read, unless one exists; Ray would write it readable for all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        path.chmod(0o600)
