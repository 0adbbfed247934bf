"""What DeepSpeed's ZeRO-2 engine costs one worker: the same step with it and with the plain engine.

    python -m tests.benchmarks.engine [--backbone pixart] [--batch 64] [--pairs 40]

Both are in one process and step in turns, so that the machine's moods take from both alike. Told is
the median over pairs of the plain step's time by ZeRO-2's, on one thread.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch

from orchestrator.training.deepspeed_engine import Engine, prepare_process
from tests.benchmarks.arguments import at_least
from tests.benchmarks.loops import START, Bench, Ours, make_bench

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", choices=list(START), default="pixart")
    parser.add_argument("--batch", type=at_least(1), default=64)
    parser.add_argument("--pairs", type=at_least(2), default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = make_bench(options.backbone, options.batch, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOCAL_RANK"] = "0"
        torch.distributed.init_process_group("gloo", f"file://{folder}/store", world_size=1, rank=0)
        prepare_process()
        loops = both(bench)
        pairs = [timed(bench, loops, pair) for pair in range(WARM_UP + options.pairs)]
        torch.distributed.destroy_process_group()
    ratios = [plain / zero for plain, zero in pairs[WARM_UP:]]
    first, median, third = statistics.quantiles(ratios, n=4)
    print(
        f"{options.backbone}, batch {options.batch}: ZeRO-2 does {median:.3f} of the plain engine's samples"
    )
    print(f"({options.pairs} pairs, quartiles {first:.3f} and {third:.3f})")


def both(bench: Bench) -> tuple[Ours, Ours]:
    """The plain loop, and one whose engines are DeepSpeed's."""
    plain, zero = Ours(bench), Ours(bench)
    auxiliary = zero.objective.auxiliary
    zero.engines = {
        name: Engine(
            engine.module,
            auxiliary[name].learning_rate if name in auxiliary else bench.train.learning_rate,
            bench.train,
        )
        for name, engine in zero.engines.items()
    }
    return plain, zero


def timed(bench: Bench, loops: tuple[Ours, Ours], pair: int) -> tuple[float, float]:
    """Seconds of a step of each, on the same random numbers; which is first changes from pair to pair."""
    bench.redraw()
    seconds = [0.0, 0.0]
    for which in (0, 1) if pair % 2 else (1, 0):
        began = time.perf_counter()
        loops[which].step(bench)
        seconds[which] = time.perf_counter() - began
    return seconds[0], seconds[1]


if __name__ == "__main__":
    main()
