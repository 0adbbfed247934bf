"""Alerts fire when they should, and are silent when they should be: by Prometheus's own `promtool`."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import KUBERNETES

ALERTS = yaml.safe_load((KUBERNETES / "components/monitoring/alerts.yaml").read_text())["spec"]["groups"]
USED, FREE = 'ray_resources{Name="GPU",State="USED"}', 'ray_resources{Name="GPU",State="AVAILABLE"}'
RATE = 'ray_distillation_samples_per_second{sweep="a"}'
POD = 'kube_pod_status_phase{namespace="distillation",pod="h",phase="%s"}'
READY = 'kube_pod_container_status_ready{namespace="distillation",pod="h",container="autoscaler"}'
COPY = 'kube_cronjob_status_last_successful_time{namespace="distillation",cronjob="mlflow-backup"}'
DAY = 24 * 60


def firing(alert: str, minutes: int, series: dict[str, float], folder: Path) -> bool:
    """True if `alert` fires after `minutes` in which each series has had its one value."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed: apt-get install prometheus brings it"
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": ALERTS}))
    given = [{"series": name, "values": f"{value:g}x{minutes}"} for name, value in series.items()]
    silent = {"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": []}
    test: dict[str, Any] = {"interval": "1m", "input_series": given, "alert_rule_test": [silent]}
    file = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(file))
    done = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 or f'alertname="{alert}"' in done.stdout + done.stderr, (
        done.stdout + done.stderr
    )
    return done.returncode != 0


@pytest.mark.parametrize(
    ("alert", "minutes", "series", "fires"),
    [
        ("GpusWithoutSteps", 40, {USED: 4, RATE: 0}, True),
        ("GpusWithoutSteps", 40, {USED: 4}, True),
        ("GpusWithoutSteps", 40, {USED: 4, RATE: 30}, False),
        ("GpusWithoutSteps", 20, {USED: 4, RATE: 0}, False),
        ("GpuNodesWithoutTrials", 40, {FREE: 4}, True),
        ("GpuNodesWithoutTrials", 40, {FREE: 4, USED: 0}, True),
        ("GpuNodesWithoutTrials", 40, {FREE: 0, USED: 4}, False),
        ("RayPodPending", 50, {POD % "Pending": 1}, True),
        ("RayPodPending", 50, {POD % "Running": 1}, False),
        ("AutoscalerDied", 20, {READY: 0, POD % "Running": 1}, True),
        ("AutoscalerDied", 20, {READY: 0, POD % "Running": 0}, False),
        ("AutoscalerDied", 20, {READY: 1, POD % "Running": 1}, False),
        ("TrackingCopyFailed", 4 * DAY, {COPY: 0}, True),
        ("TrackingCopyFailed", 2 * DAY, {COPY: 0}, False),
    ],
)
def test_alerts(alert: str, minutes: int, series: dict[str, float], fires: bool, tmp_path: Path) -> None:
    assert firing(alert, minutes, series, tmp_path) is fires


def test_each_alert_is_seen_to_fire() -> None:
    names = {rule["alert"] for group in ALERTS for rule in group["rules"]}
    marks = [mark for mark in test_alerts.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1] if row[3]} == names
