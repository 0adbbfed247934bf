"""A Ray of one's own is for its owner: loopback, a token, and a token file that others cannot read."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from orchestrator.execution import ray_cluster
from orchestrator.execution.ray_cluster import _make_token

REPOSITORY = Path(__file__).parents[3]
PODS = REPOSITORY / "infra/kubernetes"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_an_own_ray_answers_only_its_owner() -> None:
    address = ray.get_runtime_context().gcs_address
    ask = f"from ray._raylet import GcsClient; GcsClient(address={address!r}).internal_kv_get(b'x', None)"
    owner = {**os.environ, "RAY_AUTH_MODE": "token"}
    for stranger in ({}, {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": ""}):
        asked = subprocess.run([sys.executable, "-c", ask], env=owner | stranger, capture_output=True)
        assert (b"AuthenticationError" in asked.stderr) == (asked.returncode == 1) == bool(stranger)
    listening = {
        connection.laddr.ip
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening and listening <= set(LOOPBACK)
    assert (Path.home() / ".ray/auth_token").stat().st_mode & 0o077 == 0


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_an_own_ray_gathers_no_metrics() -> None:
    """Each a word to processes of Ray's, which say nothing of one that they do not know."""
    assert [node["MetricsExportPort"] for node in ray.nodes()] == [-1]


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_signals_are_not_left_to_ray() -> None:
    """Its handler of SIGTERM would end a launch with status 15 or 134, and without a line."""
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupt_waits_until_ray_has_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised in the middle, it can leave processes behind, or be lost in a hook of Python's fork."""
    done = []

    def start() -> None:
        os.kill(os.getpid(), number)
        done.append("started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "_start_own", start)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("ended"))
    with pytest.raises(KeyboardInterrupt), ray_cluster.connected():
        done.append("used")
    assert done == ["started", "ended"]


def test_a_termination_while_ray_starts_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler, which is set meanwhile, raises SystemExit."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "_start_own", lambda: sys.exit(15))
    with pytest.raises(KeyboardInterrupt), ray_cluster.connected():
        pass


@pytest.mark.parametrize("before", [None, "kept"])
def test_the_token_is_its_owners(before: str | None, tmp_path: Path) -> None:
    path = tmp_path / "home/.ray/auth_token"
    if before is not None:
        path.parent.mkdir(parents=True)
        path.write_text(before)
        path.chmod(0o644)
    _make_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == before if before else len(path.read_text()) == 64


def test_no_file_opens_ray_to_other_machines() -> None:
    """Neither is the token turned off, nor does a server outside of a pod listen for other machines."""
    suffixes = {".py", ".yaml", ".yml", ".sh", ".toml", ".md", ".json", ".tf", ".tpl", ""}
    files = [
        file
        for file in REPOSITORY.rglob("*")
        if file.is_file()
        and file.suffix in suffixes
        and file != Path(__file__)
        and not {".git", ".venv", "build", "results"} & set(file.relative_to(REPOSITORY).parts)
    ]
    assert any(file.name == "ray_cluster.py" for file in files)
    for file in files:
        text = file.read_text(errors="ignore").lower()
        for line in text.splitlines():
            words = line.replace('"', "").replace("'", "").replace(" ", "")
            assert not ("ray_auth_mode" in words and "disabled" in words), file
            # A pod must listen for others: `tests.infra.rules` has a policy close its namespace.
            if PODS not in file.parents:
                assert not ("0.0.0.0" in words and "host" in words), file
