"""Trainings that sleep: what `tests.benchmarks.scale` puts in the place of those that compute.

Python imports this at the start of every process that has this folder on its path. A stubbed
training is one process on one CPU, says what a real one would say, and leaves a student: its
teacher's own folder. All that is on the driver's side is the real thing.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPORTS = 30
"""Of a training, as many as a real one gives."""
LOSSES = ("student_loss", "fake_score_loss", "score_gap", "latent_spread")


def _sleep_instead(module: Any) -> None:
    def run_training(job: Any, asked: float) -> None:
        from orchestrator.storage import Store

        seconds = float(os.environ["STUB_SECONDS"])
        module.tune.report({"held_since": time.time()})
        for step in range(1, REPORTS + 1):
            time.sleep(seconds / REPORTS)
            rates = {"seconds_per_step": seconds / REPORTS, "samples_per_second": REPORTS / seconds}
            told = {**dict.fromkeys(LOSSES, 1 / step), **rates, "step": step}
            module.tune.report({**told, "progress": 100 * step / REPORTS})
        Store(job.root).put_folder(Path(job.trial.source), job.student)
        module.tune.report({"finished": True, "collapsed": "", "zero_stage": 2, "progress": 100})

    module.run_training = run_training


def _take_a_cpu(module: Any) -> None:
    module._resources = lambda plan, job: module.tune.PlacementGroupFactory([{"CPU": 1}])


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


if os.environ.get("STUB_SECONDS"):
    sys.meta_path.insert(0, _Finder("orchestrator.trial", _sleep_instead))
    sys.meta_path.insert(0, _Finder("orchestrator.search", _take_a_cpu))
