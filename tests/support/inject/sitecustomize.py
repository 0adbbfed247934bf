"""What tests put into a sweep's own processes, from outside: no line of the product knows of it.

Python imports this at the start of every process that has this folder on its path; what is then
changed when the product imports it depends on the environment:

CHAOS, a folder: faults. A training's step is wrapped: it is noted, with its time, and what
$CHAOS/faults.json plans for this trial, rank and step happens, once.

STUB_SECONDS: trainings that sleep so long, for `tests.benchmarks.scale`. One is a process on one CPU,
says what a real one would say, and leaves a student: its teacher's own folder. All that is on the
driver's side is the real thing.
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("CHAOS", ""))
REPORTS = 30
"""Of a training, as many as a real one gives."""
LOSSES = ("student_loss", "fake_score_loss", "score_gap", "latent_spread")


def _once(name: str) -> bool:
    """True for the first of all processes that asks."""
    try:
        (ROOT / f"fired-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _do(fault: dict[str, Any], worker: Any) -> None:
    kind = fault["do"]
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "hold":
        # Whoever watches has all the time it needs, on a machine however slow.
        while not (ROOT / f"released-{fault['step']}").exists():
            time.sleep(0.1)
    elif kind == "nan":
        worker.engines["student"]._weights.data.fill_(float("nan"))


def _faults(worker: Any, step: int) -> None:
    plan = json.loads((ROOT / "faults.json").read_text())
    for number, fault in enumerate(plan):
        where = fault.get("rank") in (None, worker.rank) and fault["step"] == step
        name = f"{number}-rank{worker.rank}" if fault.get("rank") is None else str(number)
        if where and fault.get("trial", "") in worker.job.trial.name and _once(name):
            _do(fault, worker)


def _note_and_break(module: Any) -> None:
    original = module.TrainWorker._step

    def step(self: Any, number: int, *rest: Any) -> None:
        time.sleep(float(os.environ.get("CHAOS_PAUSE", "0")))
        _faults(self, number)
        original(self, number, *rest)
        line = f"{time.time():.3f} {number} {self.rank} {self.job.trial.name}\n"
        with (ROOT / "steps.log").open("a") as log:
            log.write(line)

    module.TrainWorker._step = step


def _talk_over_gloo(module: Any) -> None:
    """A logical GPU of a machine that has none: Ray Train would have its workers talk over NCCL."""
    original = module._setup_torch_process_group

    def setup(backend: str, *rest: Any, **named: Any) -> None:
        original("gloo", *rest, **named)

    module._setup_torch_process_group = setup


def _compute_on_the_cpu(module: Any) -> None:
    """With a logical GPU, which the product would refuse."""
    module._has_gpu_of_ray = lambda: False


def _expire_sooner(module: Any) -> None:
    """Of a controller that was killed, the request for nodes stands for 3 minutes."""
    if seconds := os.environ.get("CHAOS_EXPIRY"):
        module.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = float(seconds)


def _sleep_instead(module: Any) -> None:
    def run_training(job: Any, asked: float) -> None:
        from orchestrator.common.storage import Store
        from orchestrator.jobs import Ended, GroupStarted, StepReport, WorkerReport

        def send(event: Any, progress: float) -> None:
            module.tune.report(WorkerReport((event,), progress).to_tune())

        seconds = float(os.environ["STUB_SECONDS"])
        send(GroupStarted(time.time(), None), 0)
        for step in range(1, REPORTS + 1):
            time.sleep(seconds / REPORTS)
            rates = {"seconds_per_step": seconds / REPORTS, "samples_per_second": REPORTS / seconds}
            send(StepReport(step, {**dict.fromkeys(LOSSES, 1 / step), **rates}), 100 * step / REPORTS)
        Store(job.root).put_folder(Path(job.trial.source), job.student)
        send(Ended(zero_stage=2), 100)

    module.run_training = run_training


def _take_a_cpu(module: Any) -> None:
    module.trial_resources = lambda plan, config: module.tune.PlacementGroupFactory([{"CPU": 1}])


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, target: str, change: Callable[[Any], None]) -> None:
        self._target, self._change = target, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._target:
            return None
        sys.meta_path.remove(self)
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("CHAOS"):
    sys.meta_path.insert(0, _Finder("orchestrator.training.worker", _note_and_break))
    sys.meta_path.insert(0, _Finder("ray.train.torch.config", _talk_over_gloo))
    sys.meta_path.insert(0, _Finder("orchestrator.common.devices", _compute_on_the_cpu))
    requests = "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"
    sys.meta_path.insert(0, _Finder(requests, _expire_sooner))
if os.environ.get("STUB_SECONDS"):
    sys.meta_path.insert(0, _Finder("orchestrator.execution.trainable", _sleep_instead))
    sys.meta_path.insert(0, _Finder("orchestrator.execution.search", _take_a_cpu))
