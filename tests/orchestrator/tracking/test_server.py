"""The choice of the MLflow, and the address and the command that open its pages."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.tracking.server import serve_command, tracking_uri, view_address


def test_tracking_is_embedded_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(str(tmp_path))
    assert tracking_uri(None, store) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("http://host:5000", store) == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert tracking_uri(None, store) == "http://other"
    with pytest.raises(UserError, match=r"tracking.uri ftp://host: give http"):
        tracking_uri("ftp://host", store)


def test_secrets_are_not_shown() -> None:
    uri = "postgresql://me:secret@db:5432/mlflow"
    assert "secret" not in serve_command(uri)
    assert "secret" not in view_address("http://me:secret@host", "1")


def test_results_open_at_the_view_of_training_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = "#/experiments/3/runs?viewStateShareKey=trials&workflowType=machine_learning"
    assert view_address("http://mlflow:5000/", "3") == f"http://mlflow:5000/{page}"
    assert not serve_command("http://mlflow:5000/")
    monkeypatch.chdir(tmp_path)
    assert view_address(f"sqlite:///{tmp_path}/r/m.db", "3") == f"http://127.0.0.1:5000/{page}"
    assert serve_command(f"sqlite:///{tmp_path}/r/m.db") == "mlflow ui --backend-store-uri sqlite:///r/m.db"
    assert serve_command("sqlite:////my disk/m.db") == (
        "mlflow ui --backend-store-uri 'sqlite:////my disk/m.db'"
    )
    assert serve_command("sqlite:////other/m.db") == "mlflow ui --backend-store-uri sqlite:////other/m.db"
