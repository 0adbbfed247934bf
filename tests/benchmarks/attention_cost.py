"""What attention guidance adds to a one-step picture: paired, interleaved runs, median ratios.

    python -m tests.benchmarks.attention_cost [--batch 8] [--rounds 200]

Each round draws the same batch once with each kernel, in a random order, from latents to pixels,
and divides by the plain student's time in the same round.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch

from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import load_backbone
from workloads.backbones.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.student import decode, generate, load_autoencoder

KERNELS = {
    "plain": AttentionGuidanceSettings(),
    "nasa at 0": AttentionGuidanceSettings("nasa", 0.0),
    "nasa": AttentionGuidanceSettings("nasa", 1.0),
    "nag": AttentionGuidanceSettings("nag", 4.0),
    "extrapolation": AttentionGuidanceSettings("nag", 1.0, clip=0, blend=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for teacher in TEACHERS:
        times = measure(str(WEIGHTS / teacher), options.batch, options.rounds)
        plain = times["plain"]
        print(f"{teacher}: plain {1000 * statistics.median(plain):.1f} ms a batch of {options.batch}")
        for name, seconds in times.items():
            ratios = [own / base for own, base in zip(seconds, plain, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {name:<14} x {middle:.3f}   (quartiles {low:.3f} to {high:.3f})", flush=True)


def measure(source: str, batch: int, rounds: int) -> dict[str, Sequence[float]]:
    """Seconds of each round, by kernel; negative keys and values are made once, before."""
    backbone, vae, encoder = load_backbone(source), load_autoencoder(source), TextEncoder(source)
    prompts = encoder.encode(["a large red circle on the left"] * batch)
    negative = encoder.encode(["green"])
    noise = torch.randn(batch, *backbone.latent_shape)
    guidances = {
        name: AttentionGuidance(backbone.network, negative, settings) for name, settings in KERNELS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in KERNELS}
    for number in range(rounds + 5):
        for name in random.sample(list(KERNELS), len(KERNELS)):
            began = time.perf_counter()
            guidance = None if name == "plain" else guidances[name]
            decode(vae, generate(backbone, backbone.network, noise, prompts, guidance))
            if number >= 5:
                times[name].append(time.perf_counter() - began)
    return dict(times)


if __name__ == "__main__":
    main()
