"""Value of RAY_ADDRESS: which Ray it names, and whether anything answers there."""

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from orchestrator.common.errors import UserError
from orchestrator.common.library_logging import OWN_ADDRESSES

VARIABLE = "RAY_ADDRESS"
CONNECT_SECONDS = 20.0
"""Time that a head has to answer; Ray itself would wait for it without end."""
PORT = 6379
"""Default port of a head's GCS."""


def ray_address() -> str | None:
    """Return the HOST:PORT that RAY_ADDRESS names, after something answered there; None for an own Ray.

    Raises:
        UserError: it is not the address of a Ray that a launch can join, or nothing answers there.
    """
    address = os.environ.get(VARIABLE, "").strip()
    if address in OWN_ADDRESSES:
        return None
    if address == "auto":
        from orchestrator.common.ray_internals import automatic_address

        address = automatic_address() or ""
        if not address:
            raise UserError(
                f"{VARIABLE}=auto: no Ray runs on this machine: start it, or unset {VARIABLE} to use an "
                f"own Ray"
            )
    _connect(address, *_host_and_port(address))
    return address


def _host_and_port(address: str) -> tuple[str, int]:
    if "://" in address:
        raise UserError(f"{VARIABLE}={address}: {_no_url(address)}")
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UserError(f"{VARIABLE}={address}: write HOST:PORT of the head, as in {host or 'HEAD'}:{PORT}")
    return host, port


def _no_url(address: str) -> str:
    """Return the remedy for an address with a scheme."""
    scheme, _, rest = address.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0] or "HEAD"
    head = f"set {VARIABLE} to {host}:{PORT}"
    if scheme in ("http", "https"):
        return f"is a dashboard's: submit with `ray job submit --address {address} -- ...`, or {head}"
    if scheme == "ray":
        job = f"ray job submit --address http://{host}:8265 -- ..."
        return f"Ray's client cannot run trainings: submit with `{job}`, or {head}"
    return f"unknown scheme {scheme}: {head}"


def _connect(address: str, host: str, port: int) -> None:
    """Wait until something accepts connections; a head may still be starting."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
                return
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline - 1:
                raise UserError(
                    f"{VARIABLE}={address}: nothing answers there ({error.strerror or error}): start the "
                    f"head, correct {VARIABLE}, or unset it to use an own Ray on this machine"
                ) from None
        time.sleep(1)


def submitted_variables() -> Mapping[str, Any]:
    """Return the environment variables that `ray job submit --runtime-env-json` set for this job.

    Workers have them already, and Ray refuses a variable that both the job and its driver set.
    """
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    variables: Mapping[str, Any] = (config.get("runtime_env") or {}).get("env_vars") or {}
    return variables
