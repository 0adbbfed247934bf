"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one of this machine's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from orchestrator.data_context import prepare_data_context
from orchestrator.errors import UserError
from orchestrator.quiet import ENVIRONMENT, silence

ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""Of a Ray of this machine's own: nobody takes it away, and each watcher is a process of seconds."""


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the time of a launch.

    Raises:
        UserError: the named cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": ENVIRONMENT if address else {**ENVIRONMENT, **ALONE}},
            # Ray Train cleans up after a stopped trial by asking the dashboard.
            **({} if address else {"include_dashboard": True}),
        )
    except (ConnectionError, RuntimeError) as error:
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
