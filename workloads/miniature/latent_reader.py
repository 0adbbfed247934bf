"""Latent reader: a classifier of attributes from latents, whose features measure distances in objectives.

    python -m workloads.miniature.latent_reader [--out DIR] [--threads N]

It scores nothing: pictures are scored by the judge, which has another architecture and another seed. The
command trains it anew, deterministically, in about a minute on one core. It reads the latents of
`weights/vae`, which all teachers but `sana` share.

Shapes: B batch, C = 4 latent channels, H = 8 latent size.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from workloads.layers.latent_features import WIDTHS, LatentFeatures
from workloads.miniature import FEATURES_FILE, WEIGHTS
from workloads.miniature.judge import labels
from workloads.miniature.recipe_tools import batches, update, write_digests
from workloads.miniature.world import ATTRIBUTES, dataset

CHANNELS, LATENT_SIZE = 4, 8
PICTURES, BATCH, STEPS = 12_000, 64, 3_000
NOISE = 0.5
"""Largest standard deviation of the noise on a training latent, so that imperfect latents are read too."""


class LatentReader(nn.Module):
    """`LatentFeatures` with a classification head per attribute on its last map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = LatentFeatures(CHANNELS)
        flat = WIDTHS[-1] * (LATENT_SIZE // 2) ** 2
        self.heads = nn.ModuleDict(
            {name: nn.Linear(flat, len(values)) for name, values in ATTRIBUTES.items()}
        )

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Return logits (B, number of values) by attribute, for `latents` (B, C, H, H)."""
        flat = self.features(latents)[-1].flatten(1)
        return {name: head(flat) for name, head in self.heads.items()}


def train(steps: int = STEPS, seed: int = 6) -> LatentReader:
    """Train on latents of rendered pictures with noise of a random level."""
    torch.manual_seed(seed)
    latents, targets = _latents(PICTURES, seed)
    reader = LatentReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    for rows in batches(len(latents), BATCH, steps, optimizer):
        noise = torch.randn(BATCH, *latents.shape[1:]) * NOISE * torch.rand(BATCH, 1, 1, 1)
        logits = reader(latents[rows] + noise)
        losses = [F.cross_entropy(logits[name], targets[name][rows]) for name in targets]
        update(optimizer, torch.stack(losses).sum(), reader)
    return reader.eval()


@torch.no_grad()
def report(reader: LatentReader, count: int = 2_000, seed: int = 7) -> dict[str, float]:
    """Return the accuracy of each attribute on clean latents of other pictures."""
    latents, targets = _latents(count, seed)
    logits = reader(latents)
    return {name: (logits[name].argmax(1) == targets[name]).float().mean().item() for name in targets}


@torch.no_grad()
def _latents(count: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return latents (B, C, H, H) of rendered pictures, scaled as a teacher reads them, and their labels."""
    pictures, scenes, _ = dataset(count, seed)
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "vae")
    parts = torch.split(torch.from_numpy(pictures), 500)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in parts]) * vae.config.scaling_factor
    return latents, labels(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the file (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reader = train()
    print(", ".join(f"{name} {share:.3f}" for name, share in report(reader).items()))
    save_file(reader.features.state_dict(), arguments.out / FEATURES_FILE)
    write_digests(arguments.out)


if __name__ == "__main__":
    main()
