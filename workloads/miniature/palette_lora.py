"""Trains a LoRA with which a miniature teacher draws everything in one palette, in diffusers' format.

    python -m workloads.miniature.palette_lora TEACHER FOLDER [--steps N] [--threads N]

The palette is of warm colours, those without blue. Shapes, sizes and positions stay as the caption says.
Deterministic in the seed.

Shapes: B batch, N pictures, P pixels a side, C latent channels, H latent size.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.layers.lora import AdapterSet
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.recipe_tools import batches, update
from workloads.miniature.world import dataset
from workloads.settings.train import LoraSettings
from workloads.students.adapter_file import write_adapters
from workloads.students.student import load_autoencoder

BLUE = 2
"""Index of the blue channel."""
STEPS, PICTURES, BATCH = 250, 2_000, 32
LEARNING_RATE = 2e-3
CAPTION_DROPOUT = 0.1
LORA = LoraSettings(rank=8, alpha=8.0, targets=("all",))
LARGEST_WEIGHT = 25.0
"""Most that an error in epsilon weighs, as in the training of the teachers."""


def in_palette(pictures: Tensor) -> Tensor:
    """Return pictures (N, 3, P, P) in [-1, 1] without their blue: white is yellow, and blue is black."""
    warm = pictures.clone()
    warm[:, BLUE] = -1
    return warm


def palette_distance(pictures: Tensor) -> float:
    """Return the root mean square of the blue of pictures (N, 3, P, P) in [-1, 1], from 0 to 2."""
    return (pictures[:, BLUE].float() + 1).square().mean().sqrt().item()


def train(teacher: str, folder: Path, steps: int = STEPS, seed: int = 8) -> None:
    """Train adapters of a miniature teacher, and write pytorch_lora_weights.safetensors into `folder`."""
    torch.manual_seed(seed)
    source = str(WEIGHTS / teacher)
    backbone, encoder = load_backbone(source), TextEncoder(source)
    pixels = backbone.latent_shape[-1] * backbone.latent_scale
    pictures, _, texts = dataset(PICTURES, seed, pixels)
    latents = _encode(load_autoencoder(source), in_palette(torch.from_numpy(pictures)))
    prompts = encoder.encode([*texts, ""])
    adapters = AdapterSet(backbone.network, LORA)
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=LEARNING_RATE)
    for step, rows in enumerate(batches(len(latents), BATCH, steps, optimizer), 1):
        dropped = torch.rand(BATCH) < CAPTION_DROPOUT
        asked = prompts.select(torch.where(dropped, torch.tensor(len(texts)), rows))
        loss = _loss(backbone, adapters, latents[rows], asked)
        update(optimizer, loss, adapters)
        if step % 20 == 0:
            print(f"{teacher}: step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_adapters(adapters, backbone.family, folder)


def _loss(backbone: Backbone, network: Network, latents: Tensor, prompts: Conditioning) -> Tensor:
    """Return the mean squared error in epsilon, weighted by 1 / alpha^2, for latents (B, C, H, H)."""
    timestep = torch.randint(0, len(backbone.schedule) - 1, (len(latents),))
    noise = torch.randn_like(latents)
    noisy = backbone.schedule.add_noise(latents, noise, timestep)
    alpha, _ = backbone.schedule.alpha_sigma(timestep)
    error = backbone.epsilon(network, noisy, timestep, prompts) - noise
    return (error.square() * (1 / alpha.square()).clamp(max=LARGEST_WEIGHT)).mean()


@torch.no_grad()
def _encode(vae: Any, pictures: Tensor) -> Tensor:
    """Return the latents (N, C, H, H) of pictures (N, 3, P, P) as the network takes them."""
    coded = [vae.encode(chunk) for chunk in torch.split(pictures, 500)]
    raw = torch.cat([each.latent if hasattr(each, "latent") else each.latent_dist.mean for each in coded])
    shift = vae.config.get("shift_factor") or 0.0
    latents: Tensor = (raw - shift) * vae.config["scaling_factor"]
    return latents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", choices=TEACHERS, help="folder of a miniature teacher")
    parser.add_argument("out", type=Path, help="folder for pytorch_lora_weights.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.teacher, arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
