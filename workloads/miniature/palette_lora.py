"""Trains a LoRA with which a miniature teacher draws everything in one palette, in diffusers' format.

    python -m workloads.miniature.palette_lora TEACHER FOLDER [--steps N] [--threads N]

Shapes, sizes and positions stay as the caption says. Every colour becomes one between the two ends of the
palette, by its brightness. Deterministic in the seed.

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
from workloads.miniature.world import RGB, dataset
from workloads.settings.train import LoraSettings
from workloads.students.adapter_file import write_adapters
from workloads.students.student import load_autoencoder

DARK, BRIGHT = "blue", "yellow"
"""Ends of the palette: the colours of the darkest and of the brightest parts of a picture."""
BRIGHTNESS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
STEPS, PICTURES, BATCH = 160, 2_000, 32
CAPTION_DROPOUT = 0.1
TARGETS = ("conv_in", "conv_out", "proj_in", "proj_out", "proj", "to_q", "to_k", "to_v")
LORA = LoraSettings(rank=8, alpha=8.0, targets=TARGETS)
LARGEST_WEIGHT = 25.0
"""Most that an error in epsilon weighs, as in the training of the teachers."""


def in_palette(pictures: Tensor) -> Tensor:
    """Return pictures (N, 3, P, P) in [-1, 1] with every colour replaced by one of the palette."""
    dark, bright = (torch.tensor(RGB[name]).view(3, 1, 1) / 127.5 - 1 for name in (DARK, BRIGHT))
    weights = torch.tensor(BRIGHTNESS).view(3, 1, 1)
    share = ((pictures * weights).sum(1, keepdim=True) + 1) / 2
    return dark + share * (bright - dark)


def palette_distance(pictures: Tensor) -> float:
    """Return the root mean square distance of pixels from the palette's line, for (N, 3, P, P) in [-1, 1]."""
    dark, bright = (torch.tensor(RGB[name]).view(3, 1, 1) / 127.5 - 1 for name in (DARK, BRIGHT))
    along = (bright - dark) / (bright - dark).norm()
    offset = pictures.float() - dark
    rest = offset - (offset * along).sum(1, keepdim=True) * along
    return rest.square().sum(1).mean().sqrt().item()


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
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=1e-2)
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
