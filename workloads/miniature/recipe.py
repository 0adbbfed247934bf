"""Trains the miniature judge, autoencoder and teachers, and saves them to `weights/`.

    python -m workloads.miniature.recipe [--stage STAGE ...] [--out DIR] [--threads N]

Every stage is deterministic in its seed. On one core of a 2020s server: judge 1 min, autoencoder 5 min,
unet-v 45 min in its two stages, unet-epsilon 7 min (it starts from unet-v and keeps its text encoder, so that
both share prompt shards), pixart 45 min in its two stages.

Shapes: B batch, N pictures, P = 16 pixels a side, C = 4 latent channels, H = 8 latent size, S = 16 tokens.
"""

import argparse
import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from workloads.backbones.teacher_pipeline import generate_images
from workloads.miniature import WEIGHTS, networks
from workloads.miniature.judge import Judge, attribute_hits, labels, load_judge
from workloads.miniature.recipe_tools import batches, remove_source_paths, update, write_digests
from workloads.miniature.world import Scene, captions, dataset

PICTURES = 12_000
CAPTION_DROPOUT = 0.1
BATCH = 32
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Stage:
    """One training run of a teacher, with one cosine schedule of the learning rate."""

    teacher: str
    steps: int
    learning_rate: float
    start_from: str | None = None
    """Finished teacher whose weights initialise the run."""
    position_steps: int = 0
    """First steps, on pictures that differ in position alone. A convolutional network has no notion of
    position: among the other attributes it took 6,000 steps to learn one, alone it takes 50."""
    layout_steps: int = 0
    """First steps, `position_steps` included, that see mostly high noise, where the layout is decided."""


TEACHER_STAGES = {
    "unet-v": Stage("unet-v", 7_000, 2e-3, position_steps=300, layout_steps=1_500),
    "unet-v-polish": Stage("unet-v", 3_000, 1.2e-3, start_from="unet-v"),
    "unet-epsilon": Stage("unet-epsilon", 1_300, 1e-3, start_from="unet-v"),
    "pixart": Stage("pixart", 10_000, 1.2e-3),
    "pixart-polish": Stage("pixart", 5_000, 6e-4, start_from="pixart"),
}
STAGES = ("judge", "vae", *TEACHER_STAGES)
POSITION_SCENE = {"shape": "square", "colour": "red", "size": "large", "background": "grey"}
"""Attributes that all pictures of the position steps share."""
LAYOUT_TIMESTEP = 600
"""Lowest timestep of high noise."""
LAYOUT_SHARE = 0.85
"""Share of high noise in the layout steps."""


def train_judge(out: Path, steps: int = 3_000, seed: int = 1) -> None:
    """Train on pictures of random noise level, so that the judge reads imperfect pictures as a person would.

    Writes `judge.safetensors` into `out` and prints the accuracy on held-out clean pictures.
    """
    torch.manual_seed(seed)
    pictures, scenes, _ = dataset(PICTURES, seed)
    images, targets = torch.from_numpy(pictures), labels(scenes)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    for rows in batches(len(images), 64, steps, optimizer):
        noise = torch.randn(len(rows), 3, 16, 16) * 0.25 * torch.rand(len(rows), 1, 1, 1)
        logits = judge(images[rows] + noise)
        losses = [F.cross_entropy(logits[name], targets[name][rows]) for name in targets]
        update(optimizer, torch.stack(losses).sum(), judge)
    save_file(judge.state_dict(), out / "judge.safetensors")
    held_out, scenes, _ = dataset(4_000, seed + 1)
    read = judge.read(torch.from_numpy(held_out))
    for name in targets:
        right = sum(seen[name] == getattr(s, name) for seen, s in zip(read, scenes, strict=True))
        print(f"judge: {name} {right / len(scenes):.4f} right on {len(scenes)} clean pictures")


def train_autoencoder(steps: int = 3_000, seed: int = 2) -> AutoencoderKL:
    """Train by reconstruction with a light KL term; the scaling factor gives latents unit variance."""
    torch.manual_seed(seed)
    images = torch.from_numpy(dataset(PICTURES, seed)[0])
    vae = networks.autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    for rows in batches(len(images), 32, steps, optimizer):
        posterior = vae.encode(images[rows]).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(decoded, images[rows]) + 1e-6 * posterior.kl().mean()
        update(optimizer, loss, vae)
    latents = _encode(vae, images)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    with torch.no_grad():
        error = (vae.decode(latents[:500]).sample - images[:500]).square().mean().sqrt() / 2
    print(f"vae: rmse {error:.4f} of the pixel range, channel std {latents.std((0, 2, 3))}")
    return vae


def train_teacher(stage: Stage, vae: AutoencoderKL, seed: int = 3) -> DiffusionPipeline:
    """Train a teacher by denoising with caption dropout and return its pipeline with averaged weights.

    The loss is the error in v for either prediction type: an epsilon loss gives little weight to high noise,
    where a toy network must learn the layout.
    """
    torch.manual_seed(seed)
    pictures, scenes, texts = dataset(PICTURES, seed)
    latents = _encode(vae, torch.from_numpy(pictures)) * vae.config.scaling_factor
    pipeline = _initial_pipeline(stage, vae)
    parts = nn.ModuleDict({"net": _network(pipeline), "text": pipeline.text_encoder}).train()
    average = copy.deepcopy(parts)
    tokens = pipeline.tokenizer(
        [*texts, ""], padding="max_length", max_length=networks.TOKENS, return_tensors="pt"
    )
    trained = [p for p in parts.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=stage.learning_rate, betas=(0.9, 0.99))
    same_scene = rows_of_scene(scenes, POSITION_SCENE)
    started = time.monotonic()
    for step, rows in enumerate(batches(len(latents), BATCH, stage.steps, optimizer), 1):
        rows = same_scene[rows % len(same_scene)] if step <= stage.position_steps else rows
        timestep = _timesteps(BATCH, high_noise=step <= stage.layout_steps)
        dropped = torch.rand(BATCH) < CAPTION_DROPOUT
        text = torch.where(dropped, torch.tensor(len(texts)), rows)
        ids, mask = tokens.input_ids[text], tokens.attention_mask[text]
        loss = _v_loss(stage.teacher, parts, pipeline.scheduler, latents[rows], timestep, ids, mask)
        update(optimizer, loss, parts)
        with torch.no_grad():
            decay = min(EMA_DECAY, step / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(parts.parameters()), 1 - decay)
        if step % 500 == 0:
            _use_average(pipeline, average)
            print(
                f"{stage.teacher}: step {step} of {stage.steps}, {time.monotonic() - started:.0f} s, "
                f"loss {loss.item():.3f}, {report(pipeline, 192)}",
                flush=True,
            )
    _use_average(pipeline, average)
    return pipeline


def rows_of_scene(scenes: list[Scene], attributes: dict[str, str]) -> Tensor:
    """Return the indices (n,) of the scenes that have all these attributes."""
    return torch.tensor([i for i, scene in enumerate(scenes) if attributes.items() <= asdict(scene).items()])


def _timesteps(batch: int, high_noise: bool) -> Tensor:
    """Return random timesteps (batch,), uniform or with `LAYOUT_SHARE` of them in high noise."""
    timestep = torch.randint(0, 1_000, (batch,))
    if not high_noise:
        return timestep
    high = torch.randint(LAYOUT_TIMESTEP, 1_000, (batch,))
    return torch.where(torch.rand(batch) < LAYOUT_SHARE, high, timestep)


def report(pipeline: DiffusionPipeline, count: int, seed: int = 77) -> str:
    """Return the attribute accuracies of `count` pictures at guidance scale 3 in 20 DDIM steps, as text."""
    prompts = captions(count, seed)
    pipeline.set_progress_bar_config(disable=True)
    pictures = generate_images(pipeline, prompts, steps=20, guidance_scale=3.0, seed=seed)
    hits = attribute_hits(load_judge(), pictures, prompts)
    total = [hit for values in hits.values() for hit in values]
    each = ", ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in hits.items())
    return f"all {sum(total) / len(total):.3f}, {each}"


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline with network and autoencoder in half precision, which diffusers widens on loading.

    The text encoder stays in float32: transformers loads weights in the precision of the file.
    """
    _network(pipeline).half()
    pipeline.vae.half()
    pipeline.save_pretrained(folder)
    remove_source_paths(folder)


def _initial_pipeline(stage: Stage, vae: AutoencoderKL) -> DiffusionPipeline:
    """Return the pipeline of new networks, or of those of the teacher that the stage starts from."""
    teacher = stage.teacher
    if stage.start_from is not None:
        parent = DiffusionPipeline.from_pretrained(
            WEIGHTS / stage.start_from, dtype=torch.float32, use_safetensors=True
        )
        # Both UNets keep one text encoder, so that they share prompt shards.
        parent.text_encoder.requires_grad_(teacher == "pixart")
        return networks.assemble(teacher, _network(parent), parent.text_encoder, vae)
    if teacher == "pixart":
        return networks.assemble(teacher, networks.pixart(), networks.t5_text_encoder(), vae)
    return networks.assemble(teacher, networks.unet(), networks.clip_text_encoder(), vae)


def _network(pipeline: DiffusionPipeline) -> nn.Module:
    network: nn.Module = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    return network


def _use_average(pipeline: DiffusionPipeline, average: nn.ModuleDict) -> None:
    """Give the pipeline a copy of the averaged weights; training continues on the others."""
    trained = copy.deepcopy(average).eval()
    name = "transformer" if hasattr(pipeline, "transformer") else "unet"
    pipeline.register_modules(text_encoder=trained["text"], **{name: trained["net"]})


def _v_loss(
    teacher: str,
    parts: nn.ModuleDict,
    scheduler: DDIMScheduler,
    latents: Tensor,
    timestep: Tensor,
    ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """Return the mean squared error in v: latents (B, C, H, H), timestep (B,), ids and mask (B, S)."""
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timestep)
    alpha_bar = scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if teacher == "pixart":
        states = parts["text"](ids, attention_mask=mask).last_hidden_state
        out = parts["net"](noisy, states, timestep, encoder_attention_mask=mask, added_cond_kwargs={}).sample
        out = out.chunk(2, dim=1)[0]
    else:
        out = parts["net"](noisy, timestep, parts["text"](ids).last_hidden_state).sample
    v = teacher == "unet-v"
    target = alpha * noise - sigma * latents if v else noise
    # v = (epsilon - sigma x_t) / alpha, so a squared error in epsilon weighs 1 / alpha^2; capped.
    weight = torch.ones_like(alpha) if v else (1 / alpha_bar).clamp(max=25.0)
    loss: Tensor = (weight * (out - target).square()).mean()
    return loss


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Return the unscaled posterior means (N, C, H, H) of `images` (N, 3, P, P) in [-1, 1]."""
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in torch.split(images, 500)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stage", nargs="+", choices=STAGES, default=STAGES, help="stages to run, in order (all)"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder to write (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage:
        if stage == "judge":
            train_judge(arguments.out)
        elif stage == "vae":
            train_autoencoder().save_pretrained(arguments.out / "vae")
        else:
            vae = AutoencoderKL.from_pretrained(arguments.out / "vae", use_safetensors=True)
            teacher = TEACHER_STAGES[stage].teacher
            pipeline = train_teacher(TEACHER_STAGES[stage], vae)
            print(f"{stage}: finished, {report(pipeline, 768, seed=5)}")
            save(pipeline, arguments.out / teacher)
    write_digests(arguments.out)


if __name__ == "__main__":
    main()
