"""RAY_ADDRESS in all the ways in which people set it; none of these tests starts a Ray."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.common import library_logging
from orchestrator.common.errors import UserError
from orchestrator.execution import ray_address as module
from orchestrator.execution.ray_address import ray_address
from orchestrator.execution.ray_cluster import GCS_WAIT, connected

UNUSED = 6390
"""Port on which nothing listens."""


@pytest.fixture
def head() -> Iterator[int]:
    """Port of a server that accepts connections, and is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("http://10.0.0.1:8265", r"submit with `ray job submit --address http://10\.0\.0\.1:8265.*10\.0\.0\.1:6379"),
        ("https://ray.example.org", "is a dashboard's.*HEAD:6379"),
        ("ray://head:10001", "Ray's client cannot.*http://head:8265.*set RAY_ADDRESS to head:6379"),
        ("gcs://head:6379", "unknown scheme gcs: set RAY_ADDRESS to head:6379"),
        ("localhost", "write HOST:PORT.*localhost:6379"),
        ("10.0.0.1:99999", "write HOST:PORT"),
        ("head:port", "write HOST:PORT"),
        (":6379", "write HOST:PORT.*HEAD:6379"),
        (f"127.0.0.1:{UNUSED}", "nothing answers there.*Connection refused"),
        (f"[::1]:{UNUSED}", "nothing answers there"),
        ("nosuch.invalid:6379", "nothing answers there"),
    ],
)  # fmt: skip
def test_an_address_of_no_ray_is_refused(address: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(UserError, match=remedy), connected():
        pass


def test_blanks_around_an_address_are_left_out(head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f" 127.0.0.1:{head}\n")
    assert ray_address() == f"127.0.0.1:{head}"


@pytest.mark.parametrize("address", [None, "", " \n", "local"])
def test_an_own_ray_is_for_loopback(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as RAY_ADDRESS=local, which Ray alone would open to other machines, without a token."""
    monkeypatch.setattr(os, "environ", {} if address is None else {"RAY_ADDRESS": address})
    assert ray_address() is None
    library_logging.prepare_libraries()
    assert os.environ[library_logging.LOOPBACK] == "0"


def test_auto_is_the_ray_that_was_started_last(
    head: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray remembers the address in a file, which outlives it."""
    monkeypatch.setenv("RAY_ADDRESS", "auto\n")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    with pytest.raises(UserError, match="RAY_ADDRESS=auto: no Ray runs on this machine"):
        ray_address()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{UNUSED}")
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{UNUSED}: nothing answers"):
        ray_address()
    (tmp_path / "ray/ray_current_cluster").write_text(f"127.0.0.1:{head}")
    assert ray_address() == f"127.0.0.1:{head}"


def test_variables_of_the_submitted_job_are_left_to_it(head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a ValueError if a job and its driver set the same variable, even alike."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head}")
    job = {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "4"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    asked: dict[str, Any] = {}

    def init(**options: object) -> None:
        asked.update(options, **{name: os.environ[name] for name in GCS_WAIT})
        raise ValueError("Failed to merge\nthe Job's runtime env")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="Failed to merge; check that it runs"), connected():
        pass
    names = asked["runtime_env"]["env_vars"]
    assert "TOKENIZERS_PARALLELISM" in names and "OMP_NUM_THREADS" not in names
    assert asked["RAY_gcs_server_port_wait_time_s"] == "1", "Ray would ask 20 times, 30 s each"


@pytest.mark.parametrize(
    ("variables", "pattern"),
    [
        (
            {"TMPDIR": "/tmp/" + 50 * "x"},
            "TMPDIR=.*has 55 bytes, and Ray's sockets allow [34].: set RAY_",
        ),
        ({"RAY_TMPDIR": "/tmp/" + 20 * "猫", "TMPDIR": "/tmp"}, "RAY_TMPDIR=.*has 65 bytes"),
        ({"TMPDIR": "/sys"}, "TMPDIR=/sys: Ray cannot write its sockets and logs there"),
        ({"TMPDIR": "/nowhere"}, "TMPDIR=/nowhere: .*No such file or directory.*set RAY_TMPDIR"),
        ({"HOME": "/sys"}, "/sys/.ray/auth_token: the token.*set HOME to a folder that you can write"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_named(
    variables: dict[str, str], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(UserError, match=pattern), connected():
        pass
