"""What a trial costs before its first step, and what a step waits for prompts.

    python -m tests.benchmarks.trial_start [--rounds 3] [--workers 1 2] [--json FILE]

Each round is a sweep of three short trainings of a miniature, one after the other, by the command
itself, whose own curves are then read: the seconds from the search's asking for a trial to the
trial's first step, of the first and of later trials, and the share of a step that waits for prompts.
"""

import argparse
import json
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
"""Steps in which waiting is not counted: the reader starts."""
SWEEP = """name: priced
prompts: {source: "miniature:2048", rows_per_shard: 512}
backbones: [{name: pixart, model: miniature/pixart}]
train:
  steps: %(steps)d
  batch_size: %(batch)d
  lora: {rank: 16, alpha: 16, targets: [all]}
  seed: {values: %(seeds)s}
evaluate: {scorers: [], evaluations: 1, teacher: {steps: 2, guidance_scale: 3}, sheet_prompts: [a red circle]}
resources:
  {workers: %(workers)d, cpus_per_worker: %(cpus)s, max_concurrent_trials: 1, checkpoint_every: 100000}
"""
STARTED, WAITED = "seconds_to_first_step", "system/data_wait_percentage"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2])
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    options = parser.parse_args()
    found = {}
    for workers in options.workers:
        rounds = [run_sweep(workers) for _ in range(options.rounds)]
        found[str(workers)] = summary(rounds)
        print(f"{workers} workers: {json.dumps(found[str(workers)])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def run_sweep(workers: int) -> list[dict[str, dict[int, float]]]:
    """The curves of each trial, by step, in the order in which the trials ran."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = sweep_command(folder, workers, STEPS, TRIALS, SAMPLES)
        subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        return curves(folder / "results")


def sweep_command(folder: Path, workers: int, steps: int, trials: int, samples: int) -> list[str]:
    """Writes the sweep's file into `folder`; its results will lie there as well.

    `samples`: of a step of one worker.
    """
    cpus = 1.0 if workers == 1 else 0.7
    values = {"steps": steps, "batch": samples * workers, "seeds": list(range(trials))}
    (folder / "sweep.yaml").write_text(SWEEP % {**values, "workers": workers, "cpus": cpus})
    command = [sys.executable, "-m", "orchestrator.run", str(folder / "sweep.yaml")]
    return [*command, "--storage", str(folder / "results")]


def curves(results: Path) -> list[dict[str, dict[int, float]]]:
    """What each training said of itself, as MLflow keeps it."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    trained = json.loads((results / "priced/summary.json").read_text())["trials"]
    runs = sorted((client.get_run(trial["run"]) for trial in trained), key=lambda run: run.info.start_time)
    return [
        {
            key: {m.step: m.value for m in client.get_metric_history(run.info.run_id, key)}
            for key in (STARTED, WAITED)
        }
        for run in runs
    ]


def summary(rounds: list[list[dict[str, dict[int, float]]]]) -> dict[str, Any]:
    """Of all rounds: every start, and the mean share of waiting."""
    starts = [[curve[STARTED][1] for curve in one] for one in rounds]
    waited = [
        share for one in rounds for curve in one for step, share in curve[WAITED].items() if step > WARM_UP
    ]
    return {
        "seconds to the first step, first trial": sorted(one[0] for one in starts),
        "later trials": sorted(seconds for one in starts for seconds in one[1:]),
        "percent of a step that waits for prompts": statistics.fmean(waited),
    }


if __name__ == "__main__":
    main()
