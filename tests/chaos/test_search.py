"""What happens to a search on two cores: trials are pruned, one yields NaN, and actors are killed."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tests.support.chaos import SWEEP, Sweep, find_process, recovery, verdict

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.slow]
BACKBONES = """backbones:
  - {name: good, model: miniature/pixart, start_timestep: 700, train: {learning_rate: 1.0e-9}}
  - {name: poor, model: miniature/pixart, start_timestep: 700, train: {learning_rate: 1.5e-4}}
  - {name: poorer, model: miniature/pixart, start_timestep: 700, train: {learning_rate: 2.0e-4}}
  - {name: nan, model: miniature/pixart, start_timestep: 700, train: {learning_rate: 2.5e-4}}
"""
INFER = """infer:
  attention_guidance: [{kind: nasa, strength: 1}]
  scorers: [removal]
  pictures: 4
  pairs: [{prompt: a large circle, negative_prompt: red}]
"""
ASHA = (
    "resources.workers=1",
    "resources.cpus_per_worker=0.8",
    "evaluate.scorers=[attributes]",
    "evaluate.samples=32",
    "evaluate.evaluations=4",
    "search.scheduler=asha",
    "search.reduction_factor=2",
)


class Killer(Thread):
    """Kills the youngest process that bears a title, each title once, when it has begun to work."""

    def __init__(self, titles: dict[str, str], ready: Callable[[str], bool]) -> None:
        super().__init__(daemon=True)
        self.killed: dict[str, float] = {}
        self._titles, self._ready = titles, ready
        self.start()

    def run(self) -> None:
        while len(self.killed) < len(self._titles):
            for what in self._titles.keys() - self.killed.keys():
                if self._ready(what):
                    self._kill(what)
            time.sleep(0.05)

    def _kill(self, what: str) -> None:
        found = find_process(self._titles[what])
        if found is not None:
            time.sleep(0.2)
            try:
                found.kill()
                self.killed[what] = time.time()
            except psutil.NoSuchProcess:
                pass


def test_trials_are_pruned_and_yield_nan_and_actors_are_killed(
    tmp_path: Path, note: Callable[..., None]
) -> None:
    text = SWEEP[: SWEEP.index("backbones:")] + BACKBONES + SWEEP[SWEEP.index("train:\n") :] + INFER
    sweep = Sweep(tmp_path / "sweep", text, [{"step": 5, "trial": "nan", "do": "nan"}])
    sweep.environment = {"CHAOS_PAUSE": "0.5"}
    titles = {
        "data-stage actor": "ray::MapWorker(Map(EncodeShard)",
        "trial's process": "ray::ImplicitFunc.train",
        "prompt reader": "ray::MapWorker(MapBatches(ReadPiece)",
        "scoring actor": "ray::MapWorker(MapBatches(Measure)",
    }
    in_training = ("trial's process", "prompt reader")
    killer = Killer(titles, lambda what: what not in in_training or len(sweep.steps()) > 5)
    launch = sweep.launch(*ASHA)
    assert launch.end(400) == 0, launch.output
    assert "Traceback" not in launch.output
    assert killer.killed.keys() == titles.keys()
    struck = killer.killed["trial's process"]
    died = re.search(r"(\S+): its process died; it is started again", launch.output)
    assert died is not None
    seconds, again = recovery(sweep, struck, died[1])
    note("trial's process killed", seconds, again)
    for what in ("data-stage actor", "prompt reader", "scoring actor"):
        note(f"{what} killed", 0, 0)
    statuses = {trial["backbone"]: trial["status"] for trial in sweep.summary()["trials"]}
    assert statuses["good"] == "finished" and statuses["nan"] == "collapsed"
    assert "stopped" in (statuses["poor"], statuses["poorer"]), statuses
    assert sweep.summary()["trials"][0]["curve"], "scored, though the scorer was killed"
    verdict(sweep, trials=4)
    stopped = next(name for name, status in statuses.items() if status == "stopped")
    ended = max(at for at, _, _, trial in sweep.steps() if trial.startswith(stopped))
    begun = min((at for at, s, _, t in sweep.steps() if at > ended and s == 1), default=None)
    if begun is not None:
        note("pruned, until the next trial trains", begun - ended, 0)
        assert begun - ended < 60
