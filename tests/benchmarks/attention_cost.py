"""What attention guidance adds to a one-step picture: paired, interleaved runs, median ratios.

    python -m tests.benchmarks.attention_cost [NAME ...] [--batch 8] [--rounds 200] [--threads 1] [--shapes]

Each round runs the same batch once with each kernel, in a random order, and divides by the plain time in the
same round. By default it draws pictures with the miniatures, from latents to pixels. With --shapes it calls
networks with random weights, without a decoder: they have the shapes of SANA, SD3.5, FLUX.2 and Z-Image, but
are 512 wide, and have 256 image tokens and 77 text tokens.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

import tests.benchmarks.attention_shapes as shapes
from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import load_backbone
from workloads.backbones.conditioning import Conditioning
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
    "vsf": AttentionGuidanceSettings("vsf", 1.0),
}
WARM_UP = 3
"""Rounds that are not counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="miniatures or shapes; by default all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.names or (shapes.SHAPES if options.shapes else TEACHERS):
        measured = shape(name, options.batch) if options.shapes else picture(name, options.batch)
        times = measure(*measured, options.rounds)
        plain = times["plain"]
        print(f"{name}: plain {1000 * statistics.median(plain):.1f} ms a batch of {options.batch}")
        for kernel, seconds in times.items():
            ratios = [own / base for own, base in zip(seconds, plain, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {kernel:<14} x {middle:.3f}   (quartiles {low:.3f} to {high:.3f})", flush=True)


Draw = Callable[[AttentionGuidance], object]


def picture(teacher: str, batch: int) -> tuple[nn.Module, Conditioning, Draw]:
    """A miniature's network, a negative prompt, and the drawing of a batch."""
    source = str(WEIGHTS / teacher)
    backbone, vae, encoder = load_backbone(source), load_autoencoder(source), TextEncoder(source)
    prompts = encoder.encode(["a large red circle on the left"] * batch)
    noise = torch.randn(batch, *backbone.latent_shape)

    def draw(guidance: AttentionGuidance) -> object:
        return decode(vae, generate(backbone, backbone.network, noise, prompts, guidance))

    return backbone.network, encoder.encode(["green"]), draw


def shape(name: str, batch: int) -> tuple[nn.Module, Conditioning, Draw]:
    """A network of a published shape, a negative prompt, and a call for a batch."""
    network, call = shapes.SHAPES[name]()
    prompts = shapes.texts(name, batch)
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{name}: {size / 1e6:.0f} M parameters, {prompts.embeddings.shape[1]} text tokens")

    def draw(guidance: AttentionGuidance) -> object:
        with torch.no_grad(), guidance:
            return call(network, prompts)

    return network, shapes.texts(name, 1), draw


@torch.no_grad()
def measure(
    network: nn.Module, negative: Conditioning, draw: Draw, rounds: int
) -> dict[str, Sequence[float]]:
    """Seconds of each round, by kernel; what does not depend on the image is made once, before."""
    guidances = {}
    for name, settings in KERNELS.items():
        try:
            guidances[name] = AttentionGuidance(network, negative, settings)
        except ValueError as error:  # NASA in joint attention
            print(f"  {name}: {error}")
    times: dict[str, list[float]] = {name: [] for name in guidances}
    for number in range(rounds + WARM_UP):
        for name in random.sample(list(guidances), len(guidances)):
            began = time.perf_counter()
            draw(guidances[name])
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return dict(times)


if __name__ == "__main__":
    main()
