"""What each option of the step is worth: our step with it beside our step as it is by default.

    python -m tests.benchmarks.step_options [--backbones unet-epsilon ...] [--options compile ...]

`resources.step` of a sweep file chooses the first six; `channels_last` (convolutions' weights in
that order) and an AdamW that is not fused are no options of a sweep, and are measured for that. Each
round times one step of both, in a random order, and divides; peaks are the allocator's. Each option
has a process of its own, as all that torch.compile has compiled in one may serve another. Needs torch,
diffusers, transformers and peft alone.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from tests.benchmarks.arguments import at_least, new_file
from tests.benchmarks.loops import Bench, Ours, make_bench
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.restated import RESTATED
from tests.benchmarks.step import pairs, two_steps
from workloads.settings.train import StepSettings
from workloads.training.step import PlainEngine

DEFAULT = "default"
Figures = dict[str, float]


def channels_last(bench: Bench) -> Ours:
    loop = Ours(bench)
    for network in (loop.objective.backbone.network, *(engine.module for engine in loop.engines.values())):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return loop


def not_fused(bench: Bench) -> Ours:
    loop = Ours(bench)
    for engine in loop.engines.values():
        assert isinstance(engine, PlainEngine)
        (group,) = engine.optimizer.param_groups
        given = {name: group[name] for name in ("lr", "betas", "weight_decay")}
        engine.optimizer = torch.optim.AdamW(group["params"], **given, fused=False)
    return loop


VARIANTS: dict[str, Callable[[Bench], Ours]] = {
    DEFAULT: Ours,
    "score_batch: role": partial(Ours, settings=StepSettings(score_batch="role")),
    "score_batch: all": partial(Ours, settings=StepSettings(score_batch="all")),
    "activation_checkpointing": partial(Ours, settings=StepSettings(activation_checkpointing=True)),
    "compile": partial(Ours, settings=StepSettings(compile=True)),
    "compile, checkpointing": partial(Ours, settings=StepSettings(True, compile=True)),
    "compile, checkpointing, role": partial(Ours, settings=StepSettings(True, "role", True)),
    "channels_last": channels_last,
    "AdamW not fused": not_fused,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = [name for name in VARIANTS if name != DEFAULT]
    backbones = ["sd15"] if device == "cuda" else RESTATED
    parser.add_argument("--backbones", nargs="+", default=backbones, help=f"default: {' '.join(backbones)}")
    parser.add_argument(
        "--options", nargs="+", choices=options, default=options, metavar="NAME", help=f"of {options}"
    )
    parser.add_argument("--batch", type=at_least(1), default=16, help="samples of a step")
    parser.add_argument("--rounds", type=at_least(2), default=20, help="steps of each that are timed")
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    asked = parser.parse_args()
    found: dict[str, dict[str, Figures]] = {}
    for backbone in asked.backbones:
        print(f"{backbone}, batch {asked.batch}, {device}, torch {torch.__version__}")
        found[backbone] = {}
        for name in asked.options:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                figures = process.submit(measure, backbone, asked.batch, device, name, asked.rounds).result()
            found[backbone][name] = figures
            print(f"  {name:<30}{json.dumps(figures)}", flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(backbone: str, batch: int, device: str, option: str, rounds: int) -> Figures:
    """Samples per second by the default's, with quartiles, and peak memory by the default's."""
    if device == "cpu":
        torch.set_num_threads(1)
    bench, names = make_bench(backbone, batch, device), (DEFAULT, option)
    peaks = {name: peak_bytes(partial(two_steps, bench, VARIANTS[name]), bench.device) for name in names}
    loops = {name: VARIANTS[name](bench) for name in names}
    seconds = pairs(bench, {name: partial(loop.step, bench) for name, loop in loops.items()}, rounds)
    ratios = [own / other for own, other in zip(seconds[DEFAULT], seconds[option], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    figures = {"ratio": ratio, "first_quartile": low, "third_quartile": high}
    for name in names:
        figures["step_ms" if name == option else "default_step_ms"] = 1000 * statistics.median(seconds[name])
    figures["peak_megabytes"] = peaks[option] / 1e6
    figures["peak_ratio"] = peaks[option] / peaks[DEFAULT]
    return {key: round(value, 3) for key, value in figures.items()}


if __name__ == "__main__":
    main()
