"""How a sweep's driver grows with trials and nodes: trainings that sleep, on a simulated cluster.

    python -m tests.benchmarks.scale [--sizes 10x4 50x16 200x64] [--seconds 20] [--json FILE]

Each size TRIALSxNODES is a Ray of its own on this machine, of that many nodes with one CPU each, and
one launch of the real command on it, of which only the training itself is replaced (see `inject`).
Told are the seconds of the search, beside those that the sleeping alone takes; the driver's CPU
seconds a trial and its largest memory; and the CPU seconds a trial of Ray's own control (GCS).
Registering a student is among them. Not told, as these trainings are one process: what workers cost.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.benchmarks.arguments import at_least, new_file
from tests.support.chaos import INJECT

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = 8475
SWEEP = """name: scale
prompts: {source: "miniature:64"}
backbones: [{name: pixart, model: miniature/pixart}]
train: {steps: 30, batch_size: 8, seed: {values: %s}}
evaluate: {scorers: [], evaluations: 1, teacher: {steps: 2, guidance_scale: 3}, sheet_prompts: [a red circle]}
resources: {cpus_per_worker: 0.8}
"""
HEADS = ("trials", "nodes", "search s", "asleep s", "driver CPU s/trial", "driver MB", "GCS CPU s/trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=size, nargs="+", default=[(10, 4), (50, 16), (200, 64)])
    parser.add_argument("--seconds", type=at_least(1), default=20, help="that each training sleeps")
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    options = parser.parse_args()
    found = []
    print("  ".join(HEADS), flush=True)
    for trials, nodes in options.sizes:
        found.append(measure(trials, nodes, options.seconds))
        row = zip(HEADS, found[-1].values(), strict=True)
        print("  ".join(f"{value:>{len(head)}}" for head, value in row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def size(text: str) -> tuple[int, int]:
    """TRIALSxNODES."""
    trials, _, nodes = text.partition("x")
    return at_least(1)(trials), at_least(1)(nodes)


def measure(trials: int, nodes: int, seconds: int) -> dict[str, float]:
    """One launch of so many trials on so many nodes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sweep.yaml").write_text(SWEEP % list(range(trials)))
        environment = {**os.environ, "PYTHONPATH": f"{INJECT}{os.pathsep}{REPOSITORY}"}
        environment["STUB_SECONDS"] = str(seconds)
        with cluster(nodes, environment, folder) as (address, gcs):
            before = cpu_seconds(gcs)
            searched = launch(folder, {**environment, "RAY_ADDRESS": address})
            control = (cpu_seconds(gcs) - before) / trials
    return {
        "trials": trials,
        "nodes": nodes,
        "seconds": round(searched["seconds"], 1),
        "asleep": math.ceil(trials / nodes) * seconds,
        "driver_cpu_seconds": round(searched["cpu_seconds"] / trials, 2),
        "driver_megabytes": round(searched["megabytes"]),
        "gcs_cpu_seconds": round(control, 2),
    }


@contextmanager
def cluster(nodes: int, environment: dict[str, str], folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A Ray of a head and `nodes` nodes of one CPU; its address, and its control process."""
    with (folder / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nodes", str(DASHBOARD)], env=environment, cwd=REPOSITORY,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        address = answer(process.stdout).split()[-1]
        for _ in range(nodes):
            process.stdin.write("add 1\n")
            process.stdin.flush()
            answer(process.stdout)
        yield address, find_gcs(process.pid)
    finally:
        process.communicate("end\n", timeout=120)


def answer(lines: Iterable[str]) -> str:
    """The next line that is one."""
    return next(line for line in lines if line.startswith("done: "))


def launch(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """The command; its seconds, CPU seconds and largest memory from the start of the search to its end."""
    command = [sys.executable, "-m", "orchestrator.run", str(folder / "sweep.yaml")]
    command += ["--storage", str(folder / "results")]
    process = subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    lines, began, before = [], 0.0, 0.0
    for line in process.stdout:
        lines.append(line)
        if line.startswith("searching: "):
            began, before = time.monotonic(), cpu_seconds(psutil.Process(process.pid))
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "".join(lines)
    used = usage.ru_utime + usage.ru_stime - before
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": used,
        "megabytes": usage.ru_maxrss / 1024,
    }


def find_gcs(process: int) -> psutil.Process:
    """Ray's control process, below the process that has started the cluster."""
    below = psutil.Process(process).children(recursive=True)
    return next(child for child in below if child.name() == "gcs_server")


def cpu_seconds(process: psutil.Process) -> float:
    """That it has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
