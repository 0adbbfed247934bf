"""MLflow as the manifest starts it: who is let in, who is not, and what it does without its database."""

import base64
import gzip
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.tracking.client import Tracker
from tests.infra.tracking.stack import Stack

pytestmark = pytest.mark.cluster
EXPERIMENTS = "/api/2.0/mlflow/experiments"


def ask(stack: Stack, path: str, login: str = "", body: Any = None, **headers: str) -> int:
    """The status of the answer; `login`: "admin", "sweeps" or nobody's."""
    passwords = {
        "admin": stack.secrets["tracking"]["admin-password"],
        "sweeps": stack.secrets["mlflow-client"]["password"],
    }
    if login:
        plain = f"{login}:{passwords[login]}"
        headers["Authorization"] = f"Basic {base64.b64encode(plain.encode()).decode()}"
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        stack.uri + path, content, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def search(stack: Stack, login: str = "", **headers: str) -> int:
    return ask(stack, f"{EXPERIMENTS}/search", login, {"max_results": 1}, **headers)


def test_logins(stack: Stack) -> None:
    assert search(stack) == 401
    assert search(stack, "admin") == search(stack, "sweeps") == 200
    new = {"username": "other", "password": "0123456789abcdef"}
    assert ask(stack, "/api/2.0/mlflow/users/create", "sweeps", new) == 403
    assert ask(stack, f"{EXPERIMENTS}/create", "admin", {"name": "of the admin"}) == 200
    assert ask(stack, f"{EXPERIMENTS}/get-by-name?experiment_name=of%20the%20admin", "sweeps") == 200
    assert ask(stack, f"{EXPERIMENTS}/delete", "sweeps", {"experiment_id": "0"}) == 403


def test_an_experiment_of_another_login_is_told(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All may read it, so only writing to it is refused."""
    ask(stack, f"{EXPERIMENTS}/create", "admin", {"name": "of another"})
    for key, value in stack.secrets["mlflow-client"].items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{key.upper()}", value)
    tracker = Tracker(stack.uri, "of another", Store(str(tmp_path)))
    with pytest.raises(
        UserError, match=r"refuses .* the experiment 'of another' may belong to another login"
    ):
        tracker.start_sweep("of another", str(tmp_path), {}, None)


def test_a_login_costs_little(stack: Stack) -> None:
    """Without auth_cache_ttl_seconds each takes a third of a second of a core."""
    for _ in range(4):
        search(stack, "sweeps")
    before = stack.cpu_seconds()
    assert all(search(stack, "sweeps") == 200 for _ in range(20))
    assert stack.cpu_seconds() - before < 3


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow:{}", 200),
        ("mlflow.distillation.svc.cluster.local:{}", 200),
        ("localhost:{}", 200),
        ("localhost:5001", 200),
        ("evil.example:{}", 403),
    ],
)
def test_hosts(stack: Stack, host: str, status: int) -> None:
    """As the head and port-forwards call it, and as a page that rebinds its name would."""
    assert search(stack, "admin", Host=host.format(stack.ports["mlflow"])) == status


def test_records_and_logins_are_copied_into_the_bucket(stack: Stack) -> None:
    ask(stack, f"{EXPERIMENTS}/create", "admin", {"name": "to be copied"})
    stack.back_up()
    (name,) = [name for name in stack.objects() if name.endswith("day/mlflow.sql.gz")]
    assert name.startswith("mlflow/backups/")
    text = gzip.decompress((stack.folder / "mlflow.sql.gz").read_bytes()).decode()
    assert "to be copied" in text and "CREATE DATABASE mlflow_auth" in text
    assert stack.objects()[name] == (stack.folder / "mlflow.sql.gz").stat().st_size


@pytest.mark.parametrize(("host", "status"), [("localhost:{}", 200), ("evil.example", 403)])
def test_origins(stack: Stack, host: str, status: int) -> None:
    """The browser's page at the port-forward, and any other page that the browser has open."""
    origin = f"http://{host.format(stack.ports['mlflow'])}"
    assert ask(stack, f"{EXPERIMENTS}/search", "admin", {"max_results": 1}, Origin=origin) == status


def test_the_database_is_away_for_a_while(stack: Stack) -> None:
    """Requests fail and are not kept; the pod is not restarted for it; and it needs no restart after."""
    stack.postgres.stop()
    try:
        assert search(stack, "sweeps") in (500, 503)
        assert ask(stack, "/health") == 200
    finally:
        stack.postgres.start()
    assert search(stack, "sweeps") == 200
