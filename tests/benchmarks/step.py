"""Our PG-SB step beside the published SwiftBrush loop restated: paired, interleaved, one process.

    python -m tests.benchmarks.step [--backbones unet-epsilon ...] [--batch 16] [--json FILE]

Both loops start from the same weights and get the same prompts and random numbers; their losses
are compared first. Each round then times one step of each, in a random order, and divides. Needs
torch, diffusers, transformers and peft alone. On a GPU the backbones are published shapes with
random weights in bfloat16, on a CPU the shipped miniatures in float32.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.arguments import at_least, new_file
from tests.benchmarks.loops import LOOPS, Bench, Loop, Ours, make_bench
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.restated import RESTATED
from workloads.settings.train import StepSettings

WARM_UP, COMPARED = 3, 5
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference of losses over the steps that are compared."""


def main() -> None:
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    step = StepSettings(options.activation_checkpointing, options.score_batch, options.compile)
    found = {}
    for name in options.backbones:
        bench = make_bench(name, options.batch, options.device, step)
        found[name] = measure(bench, options.rounds)
        print(table(name, found[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cuda = torch.cuda.is_available()
    shapes = ("sd15", "sd21-base", "pixart-512") if cuda else RESTATED
    parser.add_argument("--backbones", nargs="+", default=shapes, help=f"default: {' '.join(shapes)}")
    parser.add_argument("--batch", type=at_least(1), default=16, help="samples of a step")
    parser.add_argument("--rounds", type=at_least(2), default=20, help="pairs of steps that are timed")
    step = parser.add_argument_group("how our step computes", "as in resources.step of a sweep file")
    step.add_argument("--score-batch", default="prediction", choices=["all", "role", "prediction"])
    step.add_argument("--compile", action="store_true")
    step.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of the CPU, as a worker has")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    return parser.parse_args()


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """All figures of one backbone."""
    peaks = {name: peak_bytes(partial(two_steps, bench, make), bench.device) for name, make in LOOPS.items()}
    loops: dict[str, Loop] = {name: LOOPS[name](bench) for name in ("ours", "restated")}
    bench.same_adapters(loops)
    difference = compare(bench, loops)
    seconds = pairs(bench, {name: partial(loop.step, bench) for name, loop in loops.items()}, rounds)
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["restated"], strict=True)]
    # Without options: compiled, the counter would see nothing, and torch would compile no block any more.
    plain = Ours(bench, StepSettings())
    operations = count(lambda: plain.step(bench))
    peak = matrix_peak(bench)
    found: dict[str, Any] = {
        name: describe(bench, loop, seconds[name], operations, peak, rounds) for name, loop in loops.items()
    }
    low, ratio, high = statistics.quantiles(ratios, n=4)
    for name, size in peaks.items():
        found.setdefault(name, {})["peak_memory_bytes"] = size
    return found | {
        "ratio": ratio,
        "ratio_quartiles": [low, high],
        "pairs": rounds,
        "batch": bench.batch,
        "step": asdict(bench.step),
        "largest_loss_difference": difference,
        "operations_per_sample": operations / bench.batch,
        "matrix_peak_tflops": peak / 1e12,
        "device": device_name(bench.device),
        "torch": torch.__version__,
    }


def two_steps(bench: Bench, make: Callable[[Bench], Loop]) -> None:
    """From nothing: networks, optimisers, activations; the second step finds all moments there."""
    loop = make(bench)
    loop.step(bench)
    loop.step(bench)


def compare(bench: Bench, loops: dict[str, Loop]) -> float:
    """The largest relative difference of the two losses over the first steps.

    Raises:
        SystemExit: it is above the tolerance: the loops do not compute the same.
    """
    worst = 0.0
    for _ in range(COMPARED):
        bench.redraw()
        ours, theirs = (loops[name].step(bench) for name in ("ours", "restated"))
        worst = max(worst, *(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)))
    if not worst <= TOLERANCE[bench.dtype]:
        raise SystemExit(f"losses differ by {worst:.2g}: the loops do not compute the same")
    return worst


def pairs(bench: Bench, works: dict[str, Callable[[], object]], rounds: int) -> dict[str, Sequence[float]]:
    """Seconds of each work in each round; every round runs all, in a random order."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + WARM_UP):
        bench.redraw()
        for name in random.sample(list(works), len(works)):
            bench.synchronize()
            start = time.perf_counter()
            works[name]()
            bench.synchronize()
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: tuple(seconds) for name, seconds in times.items()}


def describe(
    bench: Bench, loop: Loop, seconds: Sequence[float], operations: float, peak: float, rounds: int
) -> dict[str, Any]:
    """Of one loop: speed, share of the matrix peak, milliseconds of each phase."""
    step = statistics.median(seconds)
    phases = pairs(bench, loop.phases(bench), rounds)
    return {
        "samples_per_second": bench.batch / step,
        "step_ms": 1000 * step,
        "share_of_matrix_peak": operations / step / peak,
        "phases_ms": {name: 1000 * statistics.median(times) for name, times in phases.items()},
    }


def count(work: Callable[[], object]) -> float:
    """Operations of `work` as torch counts them: a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def matrix_peak(bench: Bench) -> float:
    """Operations per second of a large matrix product: the best of ten."""
    size = 8192 if bench.device.type == "cuda" else 1536
    matrix = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    seconds = pairs(bench, {"product": lambda: matrix @ matrix}, 10)["product"]
    return float(2 * size**3 / min(seconds))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def table(name: str, found: dict[str, Any]) -> str:
    """The figures of one backbone for people."""
    low, high = found["ratio_quartiles"]
    lines = [
        f"{name}: batch {found['batch']}, {found['device']}, torch {found['torch']}",
        f"  ours / restated: {found['ratio']:.2f} x the samples/s "
        f"(quartiles {low:.2f} to {high:.2f}, {found['pairs']} pairs); "
        f"losses differ by {found['largest_loss_difference']:.1g} at most",
        f"  {'':<15}samples/s   step ms  of peak  peak MB   phases, ms",
    ]
    for loop in ("ours", "restated"):
        own = found[loop]
        phases = ", ".join(f"{phase} {ms:.1f}" for phase, ms in own["phases_ms"].items())
        lines.append(
            f"  {loop:<15}{own['samples_per_second']:>9.1f} {own['step_ms']:>9.1f} "
            f"{own['share_of_matrix_peak']:>8.1%} {own['peak_memory_bytes'] / 1e6:>8.1f}   {phases}"
        )
    three = found["three_networks"]["peak_memory_bytes"]
    lines.append(
        f"  {'three networks':<15}{'':>28} {three / 1e6:>8.1f}   "
        f"(ours: {found['ours']['peak_memory_bytes'] / three:.2f} x)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
