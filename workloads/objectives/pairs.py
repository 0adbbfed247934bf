"""Teacher pairs: noise, and the latents that the teacher draws from it with a deterministic sampler.

    columns.NoiseSeeds, columns.TeacherLatents -> prompt shards -> noise_of -> the student's input

The data stage makes a pair for each row of the prompts, once for all trainings that ask for the same pairs.
A shard keeps a seed in place of the noise. Seeds are row numbers, so prompts that occur twice have two pairs.

Shapes: N prompts, C latent channels, H latent size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.backbones.loras.entry import TeacherSource
from workloads.objectives.teacher_sampler import TeacherSampler
from workloads.settings.pairs import PairSettings

NOISE = "noise"
"""Column that a step reads in place of the seeds, (B, C * H * H)."""
SEEDS = 2**32
"""Number of different seeds of torch's generator on a CPU."""


class PairMaker:
    """Makes the teacher's latents of pairs, for the data stage."""

    def __init__(self, pairs: PairSettings, teacher: TeacherSource, device: str) -> None:
        """Load the teacher's pipeline.

        Raises:
            ValueError: A part of it cannot be opened.
        """
        self._pairs, self._sampler = pairs, TeacherSampler(teacher.source, device, teacher.loras)

    def __call__(self, prompts: Sequence[str], first: int) -> Tensor:
        """Return the latents (N, C * H * H) of N prompts, of which the first has the row number `first`.

        Raises:
            ValueError: The teacher's pipeline has latents of another form than its network.
        """
        seeds, pairs = row_seeds(self._pairs, first, len(prompts)), self._pairs
        noise = noise_of(seeds, self._sampler.latent_shape)
        return self._sampler.draw(prompts, noise, pairs.steps, pairs.guidance_scale).flatten(1)


def row_seeds(pairs: PairSettings, first: int, count: int) -> Tensor:
    """Return the seeds (N,) of N = `count` rows of the prompts from row `first`, as integers."""
    return (pairs.seed * 1_000_003 + torch.arange(first, first + count)) % SEEDS


def noise_of(seeds: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise (N, C, H, H) of seeds (N,); each is drawn on the CPU by its own generator."""
    generator = torch.Generator("cpu")
    return torch.stack([torch.randn(shape, generator=generator.manual_seed(seed)) for seed in seeds.tolist()])
