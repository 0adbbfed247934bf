"""A small sweep to break: how it is started, watched, hurt and examined.

`Sweep` is one storage and the processes of its launches; `verdict` holds what must be true of it
after whatever has happened, as seen from outside: files, MLflow, processes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from torch import Tensor

ONE_WORKER = ("resources.workers=1", "resources.cpus_per_worker=0.8")
REPOSITORY = Path(__file__).parents[2]
INJECT = Path(__file__).parent / "inject"
NAME = "chaos"
STEPS, CHECKPOINT_EVERY = 24, 4
SWEEP = f"""name: {NAME}
prompts: {{source: "miniature:96", rows_per_shard: 32}}
negative_prompts: {{source: "miniature:64", rows_per_shard: 32}}
backbones:
  - {{name: pixart, model: miniature/pixart, start_timestep: 700}}
train:
  steps: {STEPS}
  batch_size: 8
  ema_decay: 0.9
  learning_rate: 1.0e-4
  fake_score_learning_rate: 2.0e-3
  lora: {{rank: 4, alpha: 4, targets: [all]}}
  nasa_interval: [0, 1]
evaluate:
  evaluations: 1
  teacher: {{steps: 2, guidance_scale: 3}}
  sheet_prompts: [a large red circle]
resources:
  workers: 2
  cpus_per_worker: 0.4
  max_failures: 10
  checkpoint_every: {CHECKPOINT_EVERY}
"""
RAY_PROCESSES = ("raylet", "gcs_server", "ray::")
BEGAN = psutil.Process().create_time()
Fault = Mapping[str, Any]


class Launch:
    """One run of the command, as a process."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self._log = process, log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def end(self, seconds: float = 900) -> int:
        """Waits for its end; its exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """As the machine's own out-of-memory killer would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Sweep:
    """One storage, and all launches of the sweep in it."""

    def __init__(
        self, folder: Path, text: str = SWEEP, faults: Sequence[Fault] = (), storage: Path | None = None
    ) -> None:
        self.folder = folder
        self.storage = storage or folder / "results"
        self.tracking: str | None = None
        self.environment: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.yaml").write_text(text)
        self.plan(*faults)
        self._launches = 0

    def plan(self, *faults: Fault) -> None:
        """What will happen from now on, each once."""
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def command(self, *overrides: str) -> list[str]:
        sets = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "orchestrator.run", str(self.folder / "sweep.yaml")]
        uri = ["--tracking-uri", self.tracking] if self.tracking else []
        return [*command, "--storage", str(self.storage), *uri, *sets]

    def environ(self) -> dict[str, str]:
        path = os.pathsep.join([str(INJECT), str(REPOSITORY)])
        own = {"CHAOS": str(self.folder), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own, **self.environment}

    def launch(self, *overrides: str) -> Launch:
        """Starts the command."""
        self._launches += 1
        log = self.folder / f"launch-{self._launches}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(*overrides), stdout=output, stderr=subprocess.STDOUT, text=True,
                cwd=REPOSITORY, env=self.environ(), start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        return Launch(process, log)

    def run(self, *overrides: str) -> str:
        """The command, to its good end; what it printed."""
        launch = self.launch(*overrides)
        assert launch.end() == 0, launch.output
        assert "Traceback" not in launch.output, launch.output
        return launch.output

    def steps(self) -> list[tuple[float, int, int, str]]:
        """(time, step, rank, trial) of every step that was done, in the order of time."""
        log = self.folder / "steps.log"
        rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return sorted((float(at), int(step), int(rank), trial) for at, step, rank, trial in rows)

    def wait_for_step(
        self, step: int, launch: Launch | None = None, since: float = 0, seconds: float = 600
    ) -> None:
        """Until rank 0 has done `step`, after the time `since`."""

        def done() -> bool:
            if launch is not None and launch.process.poll() is not None:
                raise AssertionError(f"it ended before step {step}:\n{launch.output}")
            return any(s >= step and r == 0 and at > since for at, s, r, _ in self.steps())

        wait_until(done, seconds)

    def release(self, step: int) -> None:
        """Lets go on a training that a fault `hold` keeps before `step`."""
        (self.folder / f"released-{step}").touch()

    def fired(self) -> dict[str, float]:
        """When each injected fault struck."""
        return {path.name: path.stat().st_mtime for path in self.folder.glob("fired-*")}

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.storage.glob(f"{NAME}/results/*.json"))]

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.storage / NAME / "summary.json").read_text())
        return found

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """By trial, all that its last checkpoint holds: weights, moments, average."""
        return {
            trial["trial"]: {
                f"{path.stem}/{key}": value
                for path in sorted(Path(trial["checkpoint"]).glob("*.safetensors"))
                if not path.stem.startswith("random")
                for key, value in load_file(path).items()
            }
            for trial in self.summary()["trials"]
        }

    def average(self) -> Tensor:
        """The averaged weights of the only trial, flat."""
        checkpoint = Path(self.summary()["trials"][0]["checkpoint"])
        parts = [load_file(file)["weights"] for file in sorted(checkpoint.glob("average-*.safetensors"))]
        return torch.cat(parts)

    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking or f"sqlite:///{self.storage}/mlflow.db")

    def curves(self) -> dict[str, dict[str, list[int]]]:
        """By trial, the steps that MLflow has of each of its metrics."""
        client = self.client()
        return {
            trial["trial"]: {
                key: [metric.step for metric in client.get_metric_history(trial["run"], key)]
                for key in client.get_run(trial["run"]).data.metrics
            }
            for trial in self.summary()["trials"]
        }


def assert_same_weights(one: Sweep, other: Sweep) -> None:
    """Bit for bit: student, fake score, moments and average."""
    ours, theirs = one.weights(), other.weights()
    for name, tensors in ours.items():
        assert tensors.keys() == theirs[name].keys()
        different = [key for key, value in tensors.items() if not torch.equal(value, theirs[name][key])]
        assert not different, different


def verdict(sweep: Sweep, trials: int, extra_steps: bool = False) -> None:
    """What must be true at the end, whatever happened on the way.

    `extra_steps`: checkpoints on notice add points to the curves; holes are never allowed.
    """
    results = sweep.results()
    summary = sweep.summary()
    statuses = [trial["status"] for trial in summary["trials"]]
    assert len(results) == trials == summary["trainings"], statuses
    assert not any(result["reports"] for result in results), "MLflow has not got everything"
    client = sweep.client()
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == trials + 1, [run.info.run_name for run in runs]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for trial, curves in sweep.curves().items():
        assert "student_loss" in curves, trial
        for key, steps in curves.items():
            assert len(steps) == len(set(steps)), f"{trial}: {key} has a step twice: {steps}"
        expected = due_steps(max(curves["student_loss"]))
        found = set(curves["student_loss"])
        assert expected <= found if extra_steps else expected == found, (trial, expected ^ found)
    leftovers = ("*.part", "launch.json", "notice", "hangs", "trials/*/workers")
    left = [path for pattern in leftovers for path in sweep.storage.rglob(pattern)]
    assert not left, left


def due_steps(last: int) -> set[int]:
    """The steps that an unbroken training reports: see `group`."""
    every = max(1, STEPS // 30)
    return {1, last, *range(every, last + 1, every), *range(CHECKPOINT_EVERY, last + 1, CHECKPOINT_EVERY)}


def recovery(sweep: Sweep, struck: float, trial: str = "") -> tuple[float, int]:
    """Seconds from a fault to the first step that was new, and how many steps were done twice."""
    mine = [(at, step) for at, step, rank, name in sweep.steps() if rank == 0 and trial in name]
    reached = max((step for at, step in mine if at <= struck), default=0)
    fresh = next(at for at, step in mine if at > struck and step > reached)
    return fresh - struck, sum(struck < at < fresh for at, _ in mine)


def ray_processes(without: str | None = None) -> list[str]:
    """Titles of the processes of any Ray on this machine, less those with a word in them."""
    titles = [" ".join(process.info["cmdline"] or [])[:200] for process in _processes()]
    found = [title for title in titles if any(word in title for word in RAY_PROCESSES)]
    return [title for title in found if without is None or without not in title]


def find_process(title: str) -> psutil.Process | None:
    """The youngest process whose command line begins with `title`."""
    found = [p for p in _processes() if " ".join(p.info["cmdline"] or []).startswith(title)]
    return max(found, key=lambda p: p.info["create_time"], default=None)


def assert_no_process_left(seconds: float = 60) -> None:
    """Every process of a Ray of the launch's own ends with it.

    But for the agents of Ray's dashboard when the driver was killed: they wait for the head for a
    minute (Ray 2.60).
    """
    wait_until_none(lambda: ray_processes(without="Agent "), seconds)
    wait_until_none(ray_processes, 150)


def hold(step: int) -> Fault:
    """A fault: rank 0, and so all, wait before `step` until it is released."""
    return {"step": step, "rank": 0, "do": "hold"}


def wait_until(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:g} s"
        time.sleep(0.1)


def wait_until_none(left: Callable[[], Sequence[object]], seconds: float) -> None:
    """As `wait_until`, and says what is left."""
    deadline = time.monotonic() + seconds
    while found := left():
        assert time.monotonic() < deadline, f"left after {seconds:g} s: {found}"
        time.sleep(0.1)


def _processes() -> Iterator[psutil.Process]:
    """Those that are younger than these tests: what another left is not theirs to judge."""
    found = psutil.process_iter(["cmdline", "create_time"])
    return (process for process in found if process.info["create_time"] >= BEGAN)
