"""What Ray Tune, Train, Data and ZeRO-2 cost a step: the same step in a plain loop, and in a sweep.

    python -m tests.benchmarks.orchestration [--starts 5] [--pairs 12] [--workers 1 2] [--samples 64]
        [--json FILE]

A sweep trains a miniature, and plain processes, one for each worker, train the same (`workloads`
alone; none knows of another). They take turns of some seconds: whoever's turn it is not has all its
processes stopped, so that the machine's moods take from both alike. A step's time is that for which
it ran. Both sides are started several times, since a process differs from its like by more than the
turns of one tell. Told is the median over all pairs of turns of the plain step's time by the sweep's,
with its 95 % interval over starts and pairs, that of each start, and the CPUs that the sweep's other
processes use. What a trial costs before its first step is told by `trial_start`.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.arguments import at_least, new_file
from tests.benchmarks.trial_start import REPOSITORY, SAMPLES, sweep_command

TURN_SECONDS = 6
WARM_UP = 10
"""Steps before the first turn: caches fill, and Ray Data reads ahead."""
FOREVER = 100_000
"""Steps of the sweep, which is ended when it was timed."""
RESAMPLES = 2000
PLAIN = """
import time, torch
from tests.benchmarks.loops import Ours, make_bench
from workloads.students.ema import AverageWeights
torch.set_num_threads(1)
bench = make_bench("pixart", %d, "cpu")
ours = Ours(bench)
average = AverageWeights(ours.engines["student"].weights, 0.999)
step = 0
while step := step + 1:
    bench.redraw()
    ours.step(bench)
    average.update(ours.engines["student"].weights, step)
    print(time.time(), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=at_least(1), default=5, help="of all processes, a minute each")
    parser.add_argument("--pairs", type=at_least(2), default=12, help="of turns in each, some seconds long")
    parser.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2])
    parser.add_argument(
        "--samples", type=at_least(1), default=SAMPLES, help="of a step of one worker; 64 take half a second"
    )
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    options = parser.parse_args()
    found = {}
    for workers in options.workers:
        found[str(workers)] = measure(workers, options)
        print(f"{workers} workers: {json.dumps(found[str(workers)])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


@dataclass
class Side:
    """One of the two that take turns."""

    roots: list[psutil.Process]
    ends: Callable[[], list[float]]
    """When each step ended, in seconds since 1970."""
    turns: list[tuple[float, float]] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        """To all its processes, those that start others first."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def processes(self) -> list[psutil.Process]:
        return [process for root in self.roots for process in (root, *root.children(recursive=True))]

    def warm_up(self) -> None:
        """Lets it run for its first steps, and stops it.

        Raises:
            RuntimeError: it ended by itself.
        """
        while len(self.ends()) < WARM_UP:
            if any(not root.is_running() or root.status() == psutil.STATUS_ZOMBIE for root in self.roots):
                raise RuntimeError("a process ended before its first steps")
            time.sleep(0.5)
        self.signal(signal.SIGSTOP)

    def take_turn(self) -> None:
        self.signal(signal.SIGCONT)
        began = time.time()
        time.sleep(TURN_SECONDS)
        self.turns.append((began, time.time()))
        self.signal(signal.SIGSTOP)

    def seconds(self) -> list[list[float]]:
        """For how long each step ran that ended in each turn, but for the first.

        That one was stopped in its middle, and when a sweep goes on all its processes wake at once.
        """
        ends = [end for end in self.ends() if end >= self.turns[0][0]]
        ran = [sum(max(0.0, min(end, last) - first) for first, last in self.turns) for end in ends]
        steps = list(zip(ends[1:], np.diff(ran).tolist(), strict=True))
        return [[took for end, took in steps if first <= end <= last][1:] for first, last in self.turns]


def measure(workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides' seconds of a step, their ratio, and what else the sweep's processes used."""
    found = [one_start(workers, options.pairs, options.samples) for _ in range(options.starts)]
    seconds, used = [start for start, _ in found], [cpus for _, cpus in found]
    return summary(seconds) | {"CPUs of the sweep's other processes": round(statistics.fmean(used), 3)}


def one_start(workers: int, pairs: int, samples: int) -> tuple[np.ndarray, float]:
    """Mean seconds of a step in each pair of turns, (pairs, plain and sweep); CPUs of all other processes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        sides = [start(Path(name), workers, samples) for start in (start_plain, start_sweep)]
        try:
            for side in sides:
                side.warm_up()
            before = cpu_seconds(sides[1])
            for pair in range(pairs):
                for side in sides if pair % 2 else reversed(sides):
                    side.take_turn()
            used = cpu_seconds(sides[1]) - before
            return paired(sides[0].seconds(), sides[1].seconds()), used / (pairs * TURN_SECONDS)
        finally:
            for side in sides:
                side.signal(signal.SIGKILL)


def start_plain(folder: Path, workers: int, samples: int) -> Side:
    """The plain loops; the first tells the time for all."""
    logs = [folder / f"plain-{worker}" for worker in range(workers)]
    loops = [
        launch([sys.executable, "-c", PLAIN % samples], log, {**os.environ, "OMP_NUM_THREADS": "1"})
        for log in logs
    ]
    # A line that is being written has no end yet.
    return Side(loops, lambda: [float(line) for line in logs[0].read_text().split("\n")[:-1]])


def start_sweep(folder: Path, workers: int, samples: int) -> Side:
    """The command, with what `tests/support/inject` puts into its workers to have each step noted."""
    noted = folder / "noted"
    noted.mkdir()
    (noted / "faults.json").write_text("[]")
    (noted / "steps.log").touch()
    injected = {"CHAOS": str(noted), "PYTHONPATH": f"{REPOSITORY}/tests/support/inject:{REPOSITORY}"}
    command = sweep_command(folder, workers, FOREVER, 1, samples)
    root = launch(command, folder / "sweep.log", {**os.environ, **injected})

    def ends() -> list[float]:
        lines = [line.split() for line in (noted / "steps.log").read_text().split("\n")[:-1]]
        return [float(at) for at, _, rank, _ in lines if rank == "0"]

    return Side([root], ends)


def launch(command: list[str], log: Path, environment: dict[str, str]) -> psutil.Process:
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, cwd=REPOSITORY, env=environment)
    return process


def cpu_seconds(side: Side) -> float:
    """What all its processes that do not train have used until now, with those that are gone."""
    others = [process for process in side.processes() if "RayTrainWorker" not in process.name()]
    return sum(sum(process.cpu_times()[:4]) for process in others)


def paired(plain: list[list[float]], swept: list[list[float]]) -> np.ndarray:
    """The means of each pair of turns; one in which either side has no step is left out."""
    both = zip(plain, swept, strict=True)
    return np.array([(statistics.fmean(p), statistics.fmean(s)) for p, s in both if p and s])


def summary(starts: list[np.ndarray]) -> dict[str, Any]:
    """Of the seconds of each start, (pairs, plain and sweep)."""
    ratios = [seconds[:, 0] / seconds[:, 1] for seconds in starts]
    random = np.random.default_rng(0)

    def resampled() -> float:
        chosen = [ratios[index] for index in random.integers(len(ratios), size=len(ratios))]
        return float(np.median(np.concatenate([random.choice(each, len(each)) for each in chosen])))

    low, high = np.quantile([resampled() for _ in range(RESAMPLES)], [0.025, 0.975])
    plain, swept = np.median(np.concatenate(starts), axis=0)
    return {
        "ratio": round(float(np.median(np.concatenate(ratios))), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "of each start": [round(float(np.median(each)), 3) for each in ratios],
        "pairs": sum(map(len, ratios)),
        "plain seconds per step": round(float(plain), 4),
        "sweep seconds per step": round(float(swept), 4),
    }


if __name__ == "__main__":
    main()
