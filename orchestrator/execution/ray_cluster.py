"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one of this machine's own."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import ray

from orchestrator.common.errors import UserError
from orchestrator.common.library_logging import ENVIRONMENT, silence
from orchestrator.data.ray_data import prepare_data_context

ALONE = {
    # Nobody takes this machine away, and each watcher is a process of seconds.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray's own processes would come before those that train: its workers' niceness is 15 by default.
    "RAY_worker_niceness": "0",
    # What its dashboard and a Prometheus would show, for two fifths of its processes' CPU time.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "REPORTER_UPDATE_INTERVAL_MS": str(24 * 3600 * 1000),
}
"""Of a Ray of this machine's own."""
TOKEN = Path(".ray/auth_token")
"""Ray's token, below the home folder; Ray looks there unless told otherwise."""
ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the time of a launch.

    Raises:
        UserError: the named cluster does not answer, or none can be started here.
    """
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _init(address, runtime_env={"env_vars": ENVIRONMENT})
        else:
            _start_own()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Ray at {address or 'this machine'}: {str(error).splitlines()[0][:200]}; is it up, "
            f"and are RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN those of its head?"
        ) from None
    prepare_data_context()
    silence()
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, **options: object) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)


def _start_own() -> None:
    """A Ray that nobody reaches from another machine, and here who has the token.

    Its processes inherit this one's environment; one that Ray sets for them is a second start of each.
    """
    if not any(name in os.environ for name in ELSEWHERE):
        _make_token(Path.home() / TOKEN)
    # As on macOS: all of Ray's servers at loopback. Elsewhere most would listen on every interface.
    alone = patch("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    with alone, patch.dict(os.environ, {**ENVIRONMENT, **ALONE}):
        _init("local", include_dashboard=False)


def _make_token(path: Path) -> None:
    """A token that its owner alone can read, unless there is one: Ray would write it for all to see."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        path.chmod(0o600)
