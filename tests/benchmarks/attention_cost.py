"""What attention guidance adds to a one-step picture: paired, interleaved runs, median ratios.

    python -m tests.benchmarks.attention_cost [NAME ...] [--batch 8] [--rounds 200] [--threads 1] [--shapes]

Each round runs the same batch once with each kernel, in a random order, and divides by the plain time in the
same round: of the clock, and of the processor, which other work on the machine disturbs less.

By default it draws pictures with the miniatures, from latents to pixels. With --shapes it calls networks with
random weights, without a decoder: they have the shapes of SANA, SD3.5, FLUX.2 and Z-Image, but are 512 wide,
and have 256 image tokens and 77 text tokens. Their multiplications are counted as well.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tests.benchmarks.attention_shapes as shapes
from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
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
SHAPE_KERNELS = ("plain", "nasa", "nag", "vsf")
WARM_UP = 2
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
        guidances = make(*measured[:2], SHAPE_KERNELS if options.shapes else KERNELS)
        if options.shapes:
            count(guidances, shape_call(name, measured[0], 1))
        report(name, measure(guidances, measured[2], options.rounds), options.batch)


def report(name: str, times: dict[str, list[tuple[float, float]]], batch: int) -> None:
    plain = times["plain"]
    print(f"{name}: plain {1000 * statistics.median(clock for clock, _ in plain):.1f} ms a batch of {batch}")
    for kernel, seconds in times.items():
        columns = []
        for number, unit in enumerate(("clock", "processor")):
            ratios = [own[number] / base[number] for own, base in zip(seconds, plain, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            columns.append(f"{unit} x {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
        print(f"  {kernel:<14} {'   '.join(columns)}", flush=True)


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
    network = shapes.SHAPES[name][0]()
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{name}: {size / 1e6:.0f} M parameters")
    return network, shapes.texts(name, 1), shape_call(name, network, batch)


def shape_call(name: str, network: nn.Module, batch: int) -> Draw:
    prompts, call = shapes.texts(name, batch), shapes.SHAPES[name][1]

    def draw(guidance: AttentionGuidance) -> object:
        with torch.no_grad(), guidance:
            return call(network, prompts)

    return draw


@torch.no_grad()
def make(network: nn.Module, negative: Conditioning, kernels: Iterable[str]) -> dict[str, AttentionGuidance]:
    """Make what does not depend on the image once, before; leaves out NASA in joint attention."""
    made = {}
    for name in kernels:
        try:
            made[name] = AttentionGuidance(network, negative, KERNELS[name])
        except ValueError as error:
            print(f"  {name}: {error}")
    return made


def count(guidances: dict[str, AttentionGuidance], draw: Draw) -> None:
    """Print how many times the plain network's multiplications each kernel takes."""
    operations = {}
    for name, guidance in guidances.items():
        # The counter does not know the fused attention of a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            draw(guidance)
        operations[name] = counter.get_total_flops()
        print(f"  {name:<14} multiplications x {operations[name] / operations['plain']:.3f}", flush=True)


def measure(
    guidances: dict[str, AttentionGuidance], draw: Draw, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the clock and of the processor of each round, by kernel."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in guidances}
    for number in range(rounds + WARM_UP):
        for name in random.sample(list(guidances), len(guidances)):
            clock, processor = time.perf_counter(), time.process_time()
            draw(guidances[name])
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return times


if __name__ == "__main__":
    main()
