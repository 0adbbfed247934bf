"""Trains the miniature judge, autoencoder and teachers, and saves them to `weights/`.

    python -m workloads.miniature.recipe [--stage STAGE ...] [--out DIR] [--threads N]

Every stage is a function of its seed. On one core of a 2020s server: judge 1 min, autoencoder
5 min, unet-v 45 min in its two stages, unet-epsilon 7 min (it starts from unet-v and keeps its text
encoder, so that both share prompt shards), pixart 45 min in its two stages.

Shapes: B batch, C = 4 latent channels, H = 8 latent side, S = 16 tokens, D = 64 text width.
"""

import argparse
import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
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
from workloads.miniature.world import captions, dataset

PICTURES = 12_000
CAPTION_DROPOUT = 0.1
BATCH = 32
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Stage:
    """One training of a teacher, over one cosine of the learning rate."""

    teacher: str
    steps: int
    learning_rate: float
    start_from: str | None = None
    """The finished teacher whose weights it starts from."""
    place_steps: int = 0
    """Steps on pictures that differ in position alone. A convolutional network has no sense of
    place; in the crowd of other attributes it took 6,000 steps to find one, alone it takes 50."""
    layout_steps: int = 0
    """Steps, those included, that see mostly high noise, where the layout is decided."""


TEACHER_STAGES = {
    "unet-v": Stage("unet-v", 7_000, 2e-3, place_steps=300, layout_steps=1_500),
    "unet-v-polish": Stage("unet-v", 3_000, 1.2e-3, start_from="unet-v"),
    "unet-epsilon": Stage("unet-epsilon", 1_300, 1e-3, start_from="unet-v"),
    "pixart": Stage("pixart", 10_000, 1.2e-3),
    "pixart-polish": Stage("pixart", 5_000, 6e-4, start_from="pixart"),
}
STAGES = ("judge", "vae", *TEACHER_STAGES)
PLACE_SCENE = {"shape": "square", "colour": "red", "size": "large", "background": "grey"}
LAYOUT_TIMESTEP = 600
LAYOUT_SHARE = 0.85


def train_judge(out: Path, steps: int = 3_000, seed: int = 1) -> None:
    """Clean pictures and noisy ones, so that it reads imperfect pictures as a person would."""
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
    """Reconstruction plus a light KL term; the scaling factor makes latents unit variance."""
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
    """Denoising with caption dropout; the loss is the error in v whatever the network predicts.

    A plain epsilon loss hardly weighs high noise, where a toy network must learn the layout.
    """
    torch.manual_seed(seed)
    pictures, scenes, texts = dataset(PICTURES, seed)
    latents = _encode(vae, torch.from_numpy(pictures)) * vae.config.scaling_factor
    pipeline = _untrained(stage, vae)
    parts = nn.ModuleDict({"net": _network(pipeline), "text": pipeline.text_encoder}).train()
    average = copy.deepcopy(parts)
    tokens = pipeline.tokenizer(
        [*texts, ""], padding="max_length", max_length=networks.TOKENS, return_tensors="pt"
    )
    trained = [p for p in parts.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=stage.learning_rate, betas=(0.9, 0.99))
    alike = torch.tensor([i for i, s in enumerate(scenes) if PLACE_SCENE.items() <= asdict(s).items()])
    started = time.monotonic()
    for step, rows in enumerate(batches(len(latents), BATCH, stage.steps, optimizer), 1):
        rows = alike[rows % len(alike)] if step <= stage.place_steps else rows
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
            _adopt(pipeline, average)
            print(
                f"{stage.teacher}: step {step} of {stage.steps}, {time.monotonic() - started:.0f} s, "
                f"loss {loss.item():.3f}, {report(pipeline, 192)}",
                flush=True,
            )
    _adopt(pipeline, average)
    return pipeline


def _timesteps(batch: int, high_noise: bool) -> Tensor:
    timestep = torch.randint(0, 1_000, (batch,))
    if not high_noise:
        return timestep
    high = torch.randint(LAYOUT_TIMESTEP, 1_000, (batch,))
    return torch.where(torch.rand(batch) < LAYOUT_SHARE, high, timestep)


def report(pipeline: DiffusionPipeline, count: int, seed: int = 77) -> str:
    """Attribute accuracies of `count` pictures at guidance scale 3, in 20 DDIM steps."""
    prompts = captions(count, seed)
    pipeline.set_progress_bar_config(disable=True)
    pictures = generate_images(pipeline, prompts, steps=20, guidance_scale=3.0, seed=seed)
    hits = attribute_hits(load_judge(), pictures, prompts)
    total = [hit for values in hits.values() for hit in values]
    each = ", ".join(f"{name} {sum(v) / len(v):.3f}" for name, v in hits.items())
    return f"all {sum(total) / len(total):.3f}, {each}"


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Network and autoencoder in half precision, which diffusers widens again when it loads.

    The text encoder stays float32: transformers loads one in the precision that it finds.
    """
    _network(pipeline).half()
    pipeline.vae.half()
    pipeline.save_pretrained(folder)
    forget_place(folder)


def forget_place(folder: Path) -> None:
    """Takes out of every config where on this machine its weights were read from."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def _untrained(stage: Stage, vae: AutoencoderKL) -> DiffusionPipeline:
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


def _adopt(pipeline: DiffusionPipeline, average: nn.ModuleDict) -> None:
    """The pipeline draws with the averaged weights, while training goes on with its own."""
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
    """Mean squared error in v of one batch: latents (B, C, H, H), timestep (B,), ids, mask (B, S)."""
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
    # v = (epsilon - sigma x_t) / alpha, so an error in epsilon counts 1 / alpha^2; capped.
    weight = torch.ones_like(alpha) if v else (1 / alpha_bar).clamp(max=25.0)
    loss: Tensor = (weight * (out - target).square()).mean()
    return loss


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """(N, 3, P, P) -> (N, C, H, H), unscaled posterior means."""
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in torch.split(images, 500)])


def batches(rows: int, batch: int, steps: int, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Random rows (batch,) `steps` times, with a warm-up and a cosine on the learning rate."""
    scale: Callable[[int], float] = lambda step: min(  # noqa: E731
        (step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    for _ in range(steps):
        yield torch.randint(0, rows, (batch,))
        schedule.step()


def update(optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def write_digests(folder: Path) -> None:
    """Notes the SHA-256 of every weight file, for a test to compare."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
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
