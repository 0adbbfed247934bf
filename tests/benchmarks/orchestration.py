"""What Ray Tune, Ray Train, Ray Data and ZeRO-2 cost: the same step in a plain loop, and in a sweep.

    python -m tests.benchmarks.orchestration [--rounds 3] [--workers 1 2] [--json FILE]

Each round trains the same miniature twice, one after the other: in plain processes, one for each
worker (`workloads` alone, no process knows of another), and by the command itself, whose own curves are then
read. Both take the samples of a step that lasts 250 ms or more, on one thread a worker. Told are the
ratio of samples per second (median over rounds), the share of a step that waits for prompts, and
the seconds from the search's asking for a trial to the trial's first step, of the first and of
later trials.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.benchmarks.arguments import at_least, new_file

REPOSITORY = Path(__file__).parents[2]
SAMPLES = 64
"""Of a step of one worker: about half a second on one thread."""
STEPS, TRIALS = 60, 3
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
    if step == {warm_up}:
        began = time.perf_counter()
    bench.redraw()
    ours.step(bench)
    average.update(ours.engines["student"].module, step + 1)
print({samples} * ({steps} - {warm_up}) / (time.perf_counter() - began))
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
    """One round: the plain loops, then the sweep."""
    plain = plain_rate(workers)
    with tempfile.TemporaryDirectory() as folder:
        curves = run_sweep(Path(folder), workers, trials)
    steady = [step_rate(curve) for curve in curves]
    return {
        "plain": plain,
        "sweep": statistics.median(rate for rate, _ in steady),
        "waiting": statistics.median(wait for _, wait in steady),
        "starts": [curve["seconds_to_first_step"][1] for curve in curves],
    }


def plain_rate(workers: int) -> float:
    """Samples per second of all plain loops together."""
    code = PLAIN.format(samples=SAMPLES, steps=STEPS, warm_up=WARM_UP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
        )
        for _ in range(workers)
    ]
    return sum(float(loop.communicate()[0].split()[-1]) for loop in loops)


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
    keys = ("seconds_per_step", "samples_per_second", "system/data_wait_percentage", "seconds_to_first_step")
    return [
        {key: {m.step: m.value for m in client.get_metric_history(run.info.run_id, key)} for key in keys}
        for run in runs
    ]


def step_rate(curves: dict[str, dict[int, float]]) -> tuple[float, float]:
    """Samples per second, and the percentage of time that waited for prompts, after the warm-up."""
    steps = sorted(step for step in curves["samples_per_second"] if step > WARM_UP)
    seconds = statistics.fmean(curves["seconds_per_step"][step] for step in steps)
    batch = curves["samples_per_second"][steps[0]] * curves["seconds_per_step"][steps[0]]
    waits = [curves["system/data_wait_percentage"][step] for step in steps]
    return batch / seconds, statistics.fmean(waits)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    ratios = [one["sweep"] / one["plain"] for one in rounds]
    later = [seconds for one in rounds for seconds in one["starts"][1:]]
    return {
        "samples_per_second": {
            name: statistics.median(one[name] for one in rounds) for name in ("plain", "sweep")
        },
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "data_wait_percentage": statistics.median(one["waiting"] for one in rounds),
        "seconds_to_first_step": {
            "first trial": statistics.median(one["starts"][0] for one in rounds),
            "later trials": statistics.median(later) if later else None,
        },
    }


if __name__ == "__main__":
    main()
