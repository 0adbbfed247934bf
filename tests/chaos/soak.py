"""The miniature sweep on repeat while something is killed every 20 to 60 seconds.

    python -m tests.chaos.soak --minutes 30 --out soak.json

Whenever a launch ends, the same command is given again until the sweep is done; then it is examined
and the next one begins. Written down: trials completed, lost and recorded twice; what was killed; the
driver's memory.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from tests.support.chaos import (
    CHECKPOINT_EVERY,
    NAME,
    REPOSITORY,
    STEPS,
    Launch,
    Sweep,
    assert_no_process_left,
    find_process,
    verdict,
)

TARGETS = {
    "training worker": ("ray::RayTrainWorker", 5),
    "trial's process": ("ray::ImplicitFunc", 3),
    "data-stage or scoring actor": ("ray::MapWorker", 2),
    "driver": ("", 2),
}
"""What may be killed: its title, and how often it is chosen."""
SHORT = [
    f"name={NAME}",
    *[f"backbones.{name}.train.steps={STEPS}" for name in ("unet-epsilon", "pixart")],
    f"train.steps={STEPS}",
    f"resources.checkpoint_every={CHECKPOINT_EVERY}",
    "resources.max_failures=100",
    "prompts.source=miniature:256",
    "evaluate.samples=64",
    "evaluate.teacher.steps=4",
    "infer.attention_guidance=[{kind: nasa, strength: 1}]",
    "infer.pictures=8",
]
TRIALS = 6


class Killer(Thread):
    """Kills something every 20 to 60 s for as long as it runs."""

    def __init__(self, seed: int) -> None:
        super().__init__(daemon=True)
        self._random, self._stopped = random.Random(seed), Event()
        self.launch: Launch | None = None
        self.killed: Counter[str] = Counter()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(self._random.uniform(20, 60)):
            weights = [often for _, often in TARGETS.values()]
            what = self._random.choices(list(TARGETS), weights)[0]
            if self._kill(what):
                self.killed[what] += 1

    def stop(self) -> None:
        self._stopped.set()

    def _kill(self, what: str) -> bool:
        if what == "driver":
            alive = self.launch is not None and self.launch.process.poll() is None
            if alive and self.launch is not None:
                self.launch.kill()
            return alive
        found = find_process(TARGETS[what][0])
        if found is None:
            return False
        try:
            found.kill()
        except psutil.NoSuchProcess:
            return False
        return True


def megabytes(launch: Launch) -> float:
    """Of the driver's resident memory; 0 if it is gone."""
    try:
        return float(psutil.Process(launch.process.pid).memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0


def run_sweep(folder: Path, killer: Killer, until: float) -> dict[str, Any] | None:
    """One sweep, through as many launches as it takes; None if the time is up first."""
    sweep = Sweep(folder, (REPOSITORY / "sweeps/miniature.yaml").read_text())
    sweep.environment = {"CHAOS_PAUSE": "0.1"}
    memory: list[list[float]] = []
    launches = 0
    while True:
        launch = killer.launch = sweep.launch(*SHORT)
        launches += 1
        samples = []
        while launch.process.poll() is None:
            time.sleep(2)
            samples.append(megabytes(launch))
            if time.time() > until:
                launch.kill()
                return None
        memory.append([max(samples[:20], default=0.0), max(samples[-20:], default=0.0)])
        if launch.process.returncode == 0:
            break
    assert_no_process_left()
    verdict(sweep, TRIALS)
    return {"launches": launches, "driver_megabytes_first_and_last_40_s": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    parser.add_argument("--folder", type=Path, help="of all its files, which then stay")
    options = parser.parse_args()
    began, until = time.time(), time.time() + 60 * options.minutes
    killer = Killer(options.seed)
    sweeps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        while time.time() < until:
            done = run_sweep(folder / f"sweep-{len(sweeps)}", killer, until)
            if done is not None:
                sweeps.append(done)
            found = {
                "minutes": round((time.time() - began) / 60, 1),
                "trials_completed": TRIALS * len(sweeps),
                "trials_lost": 0,  # or verdict had raised
                "trials_duplicated": 0,
                "killed": killer.killed,
                "sweeps": sweeps,
            }
            options.out.write_text(json.dumps(found, indent=1))
            print(json.dumps(found), flush=True)
    killer.stop()


if __name__ == "__main__":
    main()
