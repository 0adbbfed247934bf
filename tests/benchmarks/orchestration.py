"""What Ray Tune, Ray Train, Ray Data and ZeRO-2 cost: the same step in a plain loop, and in a sweep.

    python -m tests.benchmarks.orchestration [--rounds 3] [--workers 1 2] [--json FILE]

Each round trains the same miniature twice, one after the other: in plain processes, one for each
worker (`workloads` alone, no process knows of another), and by the command itself, whose own curves are then
read. Both take the samples of a step that lasts 250 ms or more, on one thread a worker. Told are the
ratios of samples per second, the share of a step that waits for prompts, and the seconds from the
search's asking for a trial to the trial's first step, of the first and of later trials.

A shared machine may take a third of its speed away from a step and not from the next. So there are
two ratios: of all steps' medians, which has that noise in it, and of the fastest quarter's, which
tells what orchestration adds to a step that was left alone. Plain loops run before and after.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.benchmarks.arguments import at_least, new_file

REPOSITORY = Path(__file__).parents[2]
SAMPLES = 64
"""Of a step of one worker: about half a second on one thread."""
STEPS, TRIALS = 60, 3
EVERY = 2
"""Steps that a rate is of, since a sweep reports thirty times."""
WARM_UP = 10
"""Steps that are left out: caches fill, and Ray Data reads ahead."""
SWEEP = """name: orchestration
prompts: {source: "miniature:2048", rows_per_shard: 512}
backbones: [{name: pixart, model: miniature/pixart}]
train:
  steps: %(steps)d
  batch_size: %(batch)d
  lora: {rank: 16, alpha: 16, targets: [all]}
  seed: {values: %(seeds)s}
evaluate: {scorers: [], times: 1, teacher: {steps: 2, guidance_scale: 3}, sheet_prompts: [a red circle]}
resources: {workers: %(workers)d, cpus_per_worker: %(cpus)s, trials_at_once: 1, checkpoint_every: 100000}
"""
PLAIN = """
import time, torch
from tests.benchmarks.loops import Ours, make_bench
from workloads.ema import AverageWeights
torch.set_num_threads(1)
bench = make_bench("pixart", {samples}, "cpu", "prediction")
ours = Ours(bench)
average = AverageWeights(ours.engines["student"].module, 0.999)
for step in range({steps}):
    if step % {every} == 0:
        began = time.perf_counter()
    bench.redraw()
    ours.step(bench)
    average.update(ours.engines["student"].module, step + 1)
    if step >= {warm_up} and step % {every} == {every} - 1:
        print({samples} * {every} / (time.perf_counter() - began))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2])
    parser.add_argument(
        "--trials", type=at_least(1), default=TRIALS, help="of each sweep, one after the other"
    )
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    options = parser.parse_args()
    found = {}
    for workers in options.workers:
        rounds = [measure(workers, options.trials) for _ in range(options.rounds)]
        found[str(workers)] = summary(rounds)
        print(f"{workers} workers: {json.dumps(found[str(workers)])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(workers: int, trials: int) -> dict[str, Any]:
    """One round: the plain loops, the sweep, and the plain loops again."""
    plain = plain_rates(workers)
    with tempfile.TemporaryDirectory() as folder:
        curves = run_sweep(Path(folder), workers, trials)
    plain += plain_rates(workers)
    swept = [rate for curve in curves for rate in after_warm_up(curve["samples_per_second"])]
    waits = [wait for curve in curves for wait in after_warm_up(curve["system/data_wait_percentage"])]
    return {
        "plain": {name: of(plain) for name, of in SPEEDS.items()},
        "sweep": {name: of(swept) for name, of in SPEEDS.items()},
        "waiting": statistics.fmean(waits),
        "starts": [curve["seconds_to_first_step"][1] for curve in curves],
    }


def plain_rates(workers: int) -> list[float]:
    """Samples per second of all plain loops together, every few steps."""
    code = PLAIN.format(samples=SAMPLES, steps=STEPS, warm_up=WARM_UP, every=EVERY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
        )
        for _ in range(workers)
    ]
    rates = [[float(line) for line in loop.communicate()[0].split()] for loop in loops]
    return [sum(together) for together in zip(*rates, strict=True)]


def run_sweep(folder: Path, workers: int, trials: int) -> list[dict[str, dict[int, float]]]:
    """The curves of each trial, by step, in the order in which the trials ran."""
    values = {"steps": STEPS, "batch": SAMPLES * workers, "seeds": list(range(trials))}
    cpus = 1.0 if workers == 1 else 0.7
    (folder / "sweep.yaml").write_text(SWEEP % {**values, "workers": workers, "cpus": cpus})
    command = [sys.executable, "-m", "orchestrator.run", str(folder / "sweep.yaml")]
    command += ["--storage", str(folder / "results")]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    trained = json.loads((folder / "results/orchestration/summary.json").read_text())["trials"]
    runs = sorted((client.get_run(trial["run"]) for trial in trained), key=lambda run: run.info.start_time)
    keys = ("samples_per_second", "system/data_wait_percentage", "seconds_to_first_step")
    return [
        {key: {m.step: m.value for m in client.get_metric_history(run.info.run_id, key)} for key in keys}
        for run in runs
    ]


def after_warm_up(curve: dict[int, float]) -> list[float]:
    """A curve's values, by step, of the steady state."""
    return [value for step, value in sorted(curve.items()) if step > WARM_UP]


def fastest_quarter(rates: list[float]) -> float:
    """The mean of the rates that nothing disturbed."""
    return statistics.fmean(sorted(rates)[-max(1, len(rates) // 4) :])


SPEEDS: dict[str, Callable[[list[float]], float]] = {
    "median": statistics.median,
    "fastest quarter": fastest_quarter,
}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    later = [seconds for one in rounds for seconds in one["starts"][1:]]
    ratios = {name: [one["sweep"][name] / one["plain"][name] for one in rounds] for name in SPEEDS}
    return {
        "samples_per_second": {
            which: {name: statistics.median(one[which][name] for one in rounds) for name in SPEEDS}
            for which in ("plain", "sweep")
        },
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "ratios": ratios,
        "data_wait_percentage": statistics.median(one["waiting"] for one in rounds),
        "seconds_to_first_step": {
            "first trial": statistics.median(one["starts"][0] for one in rounds),
            "later trials": statistics.median(later) if later else None,
        },
    }


if __name__ == "__main__":
    main()
