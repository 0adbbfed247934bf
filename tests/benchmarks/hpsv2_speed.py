"""Pictures a second of our HPSv2 and of `hpsv2.score`, in turns, on the same random weights.

    python -m tests.benchmarks.hpsv2_speed            # a small architecture, seconds
    python -m tests.benchmarks.hpsv2_speed --real     # ViT-H-14: minutes on a CPU, 14 GB of memory

Every picture has its own prompt, as in an evaluation; `hpsv2.score` takes one prompt a call.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from tests.support.hpsv2_reference import SMALL, package_ready, package_scores, pictures, random_checkpoint
from workloads.scorers.hpsv2_package import ARCHITECTURE
from workloads.scorers.hpsv2_score import HPSv2
from workloads.scorers.scorer import Request

VERSION = "v2.1"
PIXELS = 512


def timed(work: Callable[[], object]) -> tuple[float, np.ndarray]:
    """Seconds that `work` takes, and the numbers that it gives."""
    start = time.perf_counter()
    found = np.asarray(work())
    return time.perf_counter() - start, found


def compare(architecture: str, count: int, rounds: int, cache: Path) -> None:
    """Prints the seconds of each round, then the medians."""
    random_checkpoint(architecture, VERSION, cache, torch.float16)
    images, prompts = pictures(count, PIXELS), [f"picture number {i}" for i in range(count)]
    requests = [Request(prompt) for prompt in prompts]
    with package_ready(architecture, cache):
        ours = HPSv2(VERSION, None, architecture)
        loading, _ = timed(ours.load)
        package_scores(images[:1], prompts[:1], VERSION)
        ours.measure(images[:1], requests[:1])
        print(f"{architecture}: {count} pictures of {PIXELS} x {PIXELS}; ours loads once, in {loading:.1f} s")
        pairs = []
        for _ in range(rounds):
            theirs, expected = timed(lambda: package_scores(images, prompts, VERSION))
            mine, found = timed(lambda: ours.measure(images, requests)[ours.metric])
            pairs.append((theirs, mine))
            difference = np.abs(expected - found).max()
            print(f"package {theirs:.2f} s, ours {mine:.2f} s, largest difference {difference:.1e}")
    package, own = (median(count / pair[which] for pair in pairs) for which in (0, 1))
    ratio = median(theirs / mine for theirs, mine in pairs)
    print(f"pictures a second: package {package:.3f}, ours {own:.3f}; median ratio {ratio:.1f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", action="store_true", help="ViT-H-14 instead of a small architecture")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        size = (ARCHITECTURE, 4) if arguments.real else (SMALL, 16)
        compare(*size, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
