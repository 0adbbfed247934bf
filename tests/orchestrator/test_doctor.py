"""The command: one line for each finding, and its exit status."""

import os
from pathlib import Path

import pytest

from orchestrator.doctor import main
from tests.support.cli import MINIMAL, written

CHEAP = ("sweep", "storage", "MLflow", "clock", "hub", "GPU driver")


def test_a_machine_and_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.diagnosis import catalogue

    monkeypatch.setattr(catalogue, "CHECKS", [check for check in catalogue.CHECKS if check.name in CHEAP])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    sweep, storage = written(tmp_path, MINIMAL), str(tmp_path / "results")
    assert main([sweep, "--storage", storage]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok", "warn", "ok", "ok", "ok", "ok"]
    assert lines[-1] == "0 failed, 1 warnings, 5 in order"
    assert main([sweep, "--storage", storage, "--set", "resources.gpus_per_worker=1"]) == 1
    assert os.listdir(tmp_path) == ["sweep.yaml"]


def test_a_wrong_sweep_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
