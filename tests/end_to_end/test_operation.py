"""A sweep in operation: figures in Prometheus, cost, its end at the budget, a failed trial's logs.

On a Ray with two GPUs that are only counted: trainings that ask for them run on CPUs.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chaos import REPOSITORY, STEPS, Sweep, hold, wait_until, wait_until_none

pytestmark = pytest.mark.cluster
GCS, DASHBOARD, METRICS, AGENT, PROMETHEUS = 6479, 8466, 8467, 8468, 9467
PANELS = json.loads((REPOSITORY / "infra/kubernetes/components/monitoring/dashboard.json").read_text())[
    "panels"
]
ALERTS = yaml.safe_load((REPOSITORY / "infra/kubernetes/components/monitoring/alerts.yaml").read_text())
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
MORE_GPU_HOURS = 0.012
"""22 s of two GPUs: a start and some steps."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """A sweep of one training, on a Ray that was started with the product's command."""
    sweep = Sweep(tmp_path_factory.mktemp("operated"))
    sweep.environment = {**TOKEN, "RAY_ADDRESS": f"127.0.0.1:{GCS}", "CHAOS_PAUSE": "1.2"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={GCS}"]
    command += ["--num-cpus=3", "--num-gpus=2", f"--dashboard-port={DASHBOARD}"]
    # Its own ports, since another Ray may be on this machine while these tests run.
    command += [f"--metrics-export-port={METRICS}", f"--dashboard-agent-listen-port={AGENT}"]
    command += ["--disable-usage-stats"]
    hasty = {"RAY_metrics_report_interval_ms": "1000", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    environment = {**sweep.environ(), **hasty}
    del environment["RAY_ADDRESS"]
    with (sweep.folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    wait_until(lambda: _answers(f"http://127.0.0.1:{METRICS}/metrics"), 300)
    yield sweep
    head.send_signal(signal.SIGTERM)
    head.wait(60)


@pytest.fixture(scope="module")
def prometheus(sweep: Sweep) -> Iterator[None]:
    """A real one."""
    assert shutil.which("prometheus"), "prometheus is not installed: apt-get install prometheus"
    scrape = {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{METRICS}"]}]}
    file = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (sweep.folder / "prometheus.yml").write_text(yaml.safe_dump(file))
    options = (
        "config.file=prometheus.yml",
        "storage.tsdb.path=tsdb",
        f"web.listen-address=127.0.0.1:{PROMETHEUS}",
    )
    with (sweep.folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", *(f"--{option}" for option in options)], cwd=sweep.folder, stdout=log, stderr=log
        )
    wait_until(lambda: _answers(f"http://127.0.0.1:{PROMETHEUS}/-/ready"), 120)
    yield
    process.terminate()
    process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def query(expression: str) -> list[dict[str, Any]]:
    """What Prometheus has of it now; fails if it is no expression."""
    expression = expression.replace("$sweep", "chaos")
    url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def unseen(expression: str) -> list[str]:
    """The expression, unless it has a figure now."""
    return [] if query(expression) else [expression]


def settings(*more: str) -> list[str]:
    """Of a trial that holds both GPUs, at two an hour each."""
    return ["resources.gpus_per_worker=1", "budget.price_per_gpu_hour=2", *more]


def test_it_is_seen_in_prometheus(sweep: Sweep, prometheus: None) -> None:
    sweep.plan(hold(6), hold(14))
    launch = sweep.launch(*settings("budget.max_gpu_hours=1"))
    wait_until(lambda: query("ray_distillation_samples_per_second > 0"), 600)
    wait_until(lambda: query('ray_distillation_trials{status="running"} == 1'), 120)
    # One by one, since Ray tells a node's own figures for a second in five.
    for expression in [target["expr"] for panel in PANELS for target in panel["targets"]]:
        wait_until_none(partial(unseen, expression), 60)
    for rule in ALERTS["spec"]["groups"][0]["rules"]:
        query(rule["expr"])
    statuses = query("max_over_time(sum(ray_distillation_trials)[1m:1s])")
    assert statuses[0]["value"][1] == "1", "a trial has one status"
    launch.process.send_signal(signal.SIGTERM)
    sweep.release(6)
    assert launch.end() == 130, launch.output


def test_it_stops_at_its_budget_and_spends_nothing_more(sweep: Sweep) -> None:
    budget = round(spent(sweep) + MORE_GPU_HOURS, 3)
    launch = sweep.launch(*settings(f"budget.max_gpu_hours={budget}"))
    used_up = "the budget is used up: 1 trainings write a checkpoint"
    wait_until(lambda: used_up in launch.output, 600)
    sweep.release(14)
    assert launch.end() == 1, launch.output
    error = launch.output.splitlines()[-1]
    told = re.match(rf"error: sweep chaos: (.*) of {budget:g} GPU-hours, cost (.*): budget", error)
    assert told and float(told[2]) == pytest.approx(2 * float(told[1]), abs=0.02), error
    before = spent(sweep)
    assert budget <= before < 2 * budget
    assert max(step for _, step, _, _ in sweep.steps()) < STEPS

    again = sweep.launch(*settings(f"budget.max_gpu_hours={budget}"))
    assert again.end() == 1, again.output
    assert "budget.max_gpu_hours is used up" in again.output.splitlines()[-1]
    assert spent(sweep) == before


def test_a_failed_trials_logs_are_in_its_run(sweep: Sweep) -> None:
    """With a higher budget it goes on; its worker is killed, once too often."""
    done = max(step for _, step, _, _ in sweep.steps())
    before = spent(sweep)
    # Those before it have struck, and the last is told from them by its number.
    sweep.plan(hold(6), hold(14), {"step": done + 3, "rank": 1, "do": "kill"})
    launch = sweep.launch(*settings("budget.max_gpu_hours=1", "resources.max_failures=0"))
    assert launch.end() == 1, launch.output
    assert "resumes after step" in launch.output
    (trial,) = sweep.summary()["trials"]
    assert trial["status"] == "failed"
    client = sweep.client()
    assert client.get_run(trial["run"]).info.status == "FAILED"
    logs = {Path(file.path).name for file in client.list_artifacts(trial["run"], "logs")}
    assert logs == {f"rank-000{rank}.{kind}.txt" for rank in (0, 1) for kind in ("out", "err")}
    for rank in (0, 1):
        text = Path(client.download_artifacts(trial["run"], f"logs/rank-000{rank}.out.txt")).read_text()
        assert f"chaos/{trial['trial']} rank {rank}: process " in text
    assert sweep.summary()["gpu_hours"] == pytest.approx(spent(sweep), abs=1e-4) and spent(sweep) > before
    assert re.search(r"spent:   0\.\d\d of 1 GPU-hours, cost 0\.\d\d", launch.output)
    assert not list(sweep.storage.rglob("workers"))


def spent(sweep: Sweep) -> float:
    """GPU-hours that the storage keeps."""
    return float(json.loads((sweep.storage / "chaos/spent.json").read_text())["gpu_hours"])
