"""Fits the autoencoder of the drawn world to its latent space, and saves it as `vae/`.

    python -m workloads.drawings.autoencoder --pictures FILE --out DIR [--steps N]

The latents are fixed beforehand (`latent_space.py`), so teachers do not wait for it: the decoder learns to
invert them, and the encoder to compute them. Deterministic in its seed; about four minutes on one core.

Shapes: B batch, N pictures, P = 32 pixels, K = 16 channels, H = 8 latent size.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from workloads.drawings.latent_space import LatentSpace, load_latent_space
from workloads.drawings.networks import autoencoder
from workloads.drawings.pictures import Drawings, read_drawings
from workloads.miniature.recipe_tools import batches, remove_source_paths, update

BATCH = 32
LEARNING_RATE = 2e-3
LATENT_NOISE = 0.2
"""Most noise on the latents that the decoder learns from, as a teacher's latents are not exact."""
LOG_VARIANCE = -8.0
"""Log-variance that the encoder learns to report: its latents are meant to be exact."""


def fit_autoencoder(drawings: Drawings, space: LatentSpace, steps: int, seed: int = 1) -> AutoencoderKL:
    """Fit to the training pictures and print the error on held-out ones every 200 steps."""
    torch.manual_seed(seed)
    vae = autoencoder().train()
    images = drawings.images[drawings.training_rows]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE)
    for step, rows in enumerate(batches(len(images), BATCH, steps, optimizer), 1):
        update(optimizer, autoencoder_loss(vae, images[rows], space.encode(images[rows])), vae)
        if step % 200 == 0 or step == steps:
            print(f"autoencoder: step {step} of {steps}, {report(vae, drawings, space)}", flush=True)
    return vae.eval()


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, latents: Tensor) -> Tensor:
    """Return the errors (scalar) of decoding noisy `latents` (B, K, H, H) and of encoding `images`."""
    level = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1)
    decoded = vae.decode(latents + level * torch.randn_like(latents)).sample
    posterior = vae.encode(images).latent_dist
    encoding = F.mse_loss(posterior.mean, latents) + 1e-3 * (posterior.logvar - LOG_VARIANCE).square().mean()
    loss: Tensor = F.mse_loss(decoded, images) + 0.1 * encoding
    return loss


@torch.no_grad()
def report(vae: AutoencoderKL, drawings: Drawings, space: LatentSpace) -> str:
    """Return the signal-to-noise ratio and the encoder's error on held-out pictures, as text."""
    images = drawings.images[drawings.held_out_rows]
    latents = space.encode(images)
    error = (vae.decode(latents).sample.clamp(-1, 1) - images).square().mean()
    linear = (space.decode(latents) - images).square().mean()
    encoder = (vae.encode(images).latent_dist.mean - latents).square().mean()
    ratio, linear_ratio = (10 * torch.log10(4 / value).item() for value in (error, linear))
    return f"decoder {ratio:.1f} dB (linear {linear_ratio:.1f}), encoder error {encoder.item():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="parquet table of captioned pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder with latents.safetensors")
    parser.add_argument("--steps", type=int, default=1_500, help="updates (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    drawings, space = read_drawings(arguments.pictures), load_latent_space(arguments.out)
    vae = fit_autoencoder(drawings, space, arguments.steps)
    vae.half().save_pretrained(arguments.out / "vae")
    remove_source_paths(arguments.out / "vae")


if __name__ == "__main__":
    main()
