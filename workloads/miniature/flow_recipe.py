"""Trains the two miniature teachers of flow matching, and saves them to `weights/`.

    python -m workloads.miniature.flow_recipe STAGE ... [--out DIR] [--threads N]

Every stage is deterministic in its seed. `sana-vae` trains the autoencoder of `sana`; `sd3` uses that of the
other miniatures. With half a core of a busy server, `sana` and its polish took 51 min, `sd3` and its polish
55 min.

Shapes: B batch, N pictures, P pixels a side, C latent channels, H latent size.
"""

import argparse
import copy
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, AutoencoderKL, DiffusionPipeline
from torch import Tensor, nn

from workloads.miniature import WEIGHTS, flow_networks
from workloads.miniature.flow_networks import SANA_PIXELS, SHIFT
from workloads.miniature.networks import TOKENS
from workloads.miniature.recipe import LAYOUT_SHARE, POSITION_SCENE, report, rows_of_scene, save
from workloads.miniature.recipe_tools import batches, update, write_digests
from workloads.miniature.world import PIXELS, dataset, random_caption

PICTURES = 12_000
BATCH = 32
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.999
LATENT_NOISE = 0.1
"""Noise on the latents in the autoencoder's training, relative to their standard deviation."""


@dataclass(frozen=True)
class Teacher:
    """One teacher: its parts, how its network is called, and the size of its pictures."""

    assemble: Callable[[Any], DiffusionPipeline]
    predict: Callable[[DiffusionPipeline, Tensor, Tensor, list[str]], Tensor]
    """Output (B, C, H, H) for noisy latents (B, C, H, H), timesteps (B,) in (0, 1000] and B captions."""
    pixels: int


@dataclass(frozen=True)
class Stage:
    """One training run of a teacher, with one cosine schedule of the learning rate."""

    teacher: str
    schedule: int
    """Steps in which the learning rate falls to zero."""
    steps: int
    """Steps that are trained; at most `schedule`."""
    learning_rate: float
    position_steps: int = 0
    """First steps, on pictures that differ in position alone; see `recipe.Stage`."""
    layout_steps: int = 0
    """First steps, `position_steps` included, that see mostly high noise, where the layout is decided."""
    polish: bool = False
    """True if the run starts from the teacher in the output folder."""


def train_autoencoder(seed: int = 6) -> AutoencoderDC:
    """Train by reconstruction from noisy latents; the scaling factor gives latents unit variance."""
    torch.manual_seed(seed)
    images = torch.from_numpy(dataset(PICTURES, seed, SANA_PIXELS)[0])
    vae = flow_networks.deep_compression_autoencoder()
    _reconstruct(vae, vae, images, 1_600, 3e-3)
    vae.register_to_config(scaling_factor=1 / _encode(vae, images).std().item())
    return vae


def train_decoder(encoder: AutoencoderDC, seed: int = 7) -> AutoencoderDC:
    """Return an autoencoder of this encoder, unchanged, and a newly trained, larger decoder."""
    torch.manual_seed(seed)
    vae = flow_networks.deep_compression_autoencoder(large_decoder=True)
    vae.register_to_config(scaling_factor=encoder.config.scaling_factor)
    vae.encoder.load_state_dict(encoder.encoder.state_dict())
    vae.encoder.requires_grad_(False)
    _reconstruct(vae, vae.decoder, torch.from_numpy(dataset(PICTURES, seed, SANA_PIXELS)[0]), 2_500, 2e-3)
    return vae


def _reconstruct(
    vae: AutoencoderDC, trained: nn.Module, images: Tensor, steps: int, learning_rate: float
) -> None:
    """Train the part `trained` of the autoencoder on `images` (N, 3, P, P), and print the error."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=learning_rate)
    started = time.monotonic()
    for step, rows in enumerate(batches(len(images), BATCH, steps, optimizer), 1):
        latents = vae.encode(images[rows]).latent
        noisy = latents + LATENT_NOISE * latents.detach().std() * torch.randn_like(latents)
        loss = F.mse_loss(vae.decode(noisy).sample, images[rows])
        update(optimizer, loss, trained)
        if step % 250 == 0:
            elapsed = time.monotonic() - started
            print(f"sana-vae: step {step}, {elapsed:.0f} s, loss {loss.item():.5f}", flush=True)
    with torch.no_grad():
        error = (vae(images[:500]).sample - images[:500]).square().mean().sqrt() / 2
    print(f"sana-vae: rmse {error:.4f} of the pixel range")


def autoencoder_with_shift(seed: int = 3) -> AutoencoderKL:
    """Return the miniatures' autoencoder; its shift and scale give latents mean 0 and variance 1."""
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae", use_safetensors=True)
    latents = _encode(vae, torch.from_numpy(dataset(PICTURES, seed)[0]))
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
    return vae


def train_teacher(stage: Stage, out: Path, seed: int = 3) -> DiffusionPipeline:
    """Train by flow matching with caption dropout and return the pipeline with averaged weights.

    The loss is ||v(x_t, t) - (e - x_0)||^2 with x_t = (1 - t) x_0 + t e (Liu et al. 2023, equation 1). Texts
    are encoded by the stock pipeline's own method. Every 1,000 steps it writes the averaged weights to `out`.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    teacher, vae = TEACHERS[stage.teacher], _autoencoder(stage.teacher, out)
    pictures, scenes, _ = dataset(PICTURES, seed, teacher.pixels)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (_encode(vae, torch.from_numpy(pictures)) - shift) * vae.config.scaling_factor
    pipeline = _opened(out / stage.teacher, vae) if stage.polish else teacher.assemble(vae)
    averaged = _copy(pipeline)
    parts, average = _trained(pipeline).train(), _trained(averaged).eval()
    optimizer = torch.optim.AdamW(parts.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), fused=True)
    same_scene = rows_of_scene(scenes, POSITION_SCENE)
    started = time.monotonic()
    schedule = batches(len(latents), BATCH, stage.schedule, optimizer)
    for step, rows in enumerate(itertools.islice(schedule, stage.steps), 1):
        rows = same_scene[rows % len(same_scene)] if step <= stage.position_steps else rows
        texts = [
            "" if rng.random() < CAPTION_DROPOUT else random_caption(scenes[row], rng)
            for row in rows.tolist()
        ]
        loss = flow_loss(teacher, pipeline, latents[rows], texts, high_noise=step <= stage.layout_steps)
        update(optimizer, loss, parts)
        with torch.no_grad():
            decay = min(EMA_DECAY, step / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(parts.parameters()), 1 - decay)
        if step % 500 == 0:
            print(
                f"{stage.teacher}: step {step} of {stage.steps}, {time.monotonic() - started:.0f} s, "
                f"loss {loss.item():.3f}, {report(averaged, 192)}",
                flush=True,
            )
        if step % 1_000 == 0:
            save(_copy(averaged), out / stage.teacher)
    return averaged


def flow_loss(
    teacher: Teacher,
    pipeline: DiffusionPipeline,
    latents: Tensor,
    texts: list[str],
    high_noise: bool = False,
) -> Tensor:
    """Return the mean squared error (scalar) for latents (B, C, H, H) and B captions.

    With `high_noise` most of the timesteps are from the last quarter of the schedule.
    """
    noise, u = torch.randn_like(latents), torch.randint(1, 1_001, (len(latents),)) / 1_000
    if high_noise:
        high = torch.randint(750, 1_001, (len(latents),)) / 1_000
        u = torch.where(torch.rand(len(latents)) < LAYOUT_SHARE, high, u)
    t = SHIFT * u / (1 + (SHIFT - 1) * u)
    noisy = torch.lerp(latents, noise, t.view(-1, 1, 1, 1))
    return F.mse_loss(teacher.predict(pipeline, noisy, 1_000 * t, texts), noise - latents)


def _sana(pipeline: DiffusionPipeline, noisy: Tensor, timestep: Tensor, texts: list[str]) -> Tensor:
    states, mask, _, _ = pipeline.encode_prompt(texts, False, max_sequence_length=TOKENS)
    out: Tensor = pipeline.transformer(noisy, states, timestep, encoder_attention_mask=mask).sample
    return out


def _sd3(pipeline: DiffusionPipeline, noisy: Tensor, timestep: Tensor, texts: list[str]) -> Tensor:
    states, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=TOKENS
    )
    out: Tensor = pipeline.transformer(noisy, states, pooled, timestep).sample
    return out


TEACHERS = {
    "sana": Teacher(flow_networks.assemble_sana, _sana, SANA_PIXELS),
    "sd3": Teacher(flow_networks.assemble_sd3, _sd3, PIXELS),
}
STAGES = {
    "sana": Stage("sana", 12_000, 4_000, 1.2e-3, position_steps=150, layout_steps=600),
    "sana-polish": Stage("sana", 2_000, 2_000, 6e-4, polish=True),
    "sd3": Stage("sd3", 12_000, 4_000, 1.2e-3),
    "sd3-polish": Stage("sd3", 1_500, 1_500, 6e-4, polish=True),
}


def _trained(pipeline: DiffusionPipeline) -> nn.ModuleDict:
    """Return the pipeline's networks except for the autoencoder."""
    parts = pipeline.components.items()
    return nn.ModuleDict(
        {name: part for name, part in parts if isinstance(part, nn.Module) and name != "vae"}
    )


def _opened(folder: Path, vae: Any) -> DiffusionPipeline:
    """Return the trained pipeline of a folder, in float32, with this autoencoder."""
    opened: DiffusionPipeline = DiffusionPipeline.from_pretrained(
        folder, vae=vae, dtype=torch.float32, use_safetensors=True
    )
    return opened


def _copy(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Return a pipeline of copies of all networks."""
    copied: DiffusionPipeline = type(pipeline)(**copy.deepcopy(pipeline.components))
    return copied


@torch.no_grad()
def _encode(vae: Any, images: Tensor) -> Tensor:
    """Return the unscaled latents (N, C, H, H), or their posterior means, of `images` in [-1, 1]."""
    coded = [vae.encode(chunk) for chunk in torch.split(images, 500)]
    return torch.cat([each.latent if hasattr(each, "latent") else each.latent_dist.mean for each in coded])


def _autoencoder(teacher: str, out: Path) -> AutoencoderDC | AutoencoderKL:
    if teacher == "sd3":
        return autoencoder_with_shift()
    return AutoencoderDC.from_pretrained(out / teacher / "vae", dtype=torch.float32, use_safetensors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=("sana-vae", "sana-decoder", *STAGES), help="in order")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages:
        if stage == "sana-vae":
            train_autoencoder().save_pretrained(arguments.out / "sana" / "vae")
            continue
        if stage == "sana-decoder":
            vae = train_decoder(_autoencoder("sana", arguments.out))
            vae.save_pretrained(arguments.out / "sana" / "vae")
            continue
        pipeline = train_teacher(STAGES[stage], arguments.out)
        print(f"{stage}: finished, {report(pipeline, 768, seed=5)}")
        save(pipeline, arguments.out / STAGES[stage].teacher)
    write_digests(arguments.out)


if __name__ == "__main__":
    main()
