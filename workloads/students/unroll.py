"""The steps of a student one after the other: its network's input at a rung, and the noise of all rungs.

Shapes: B batch, N steps of the student, C latent channels, H latent size.
"""

import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning


@torch.no_grad()
def unroll(
    backbone: Backbone, student: Network, noise: Tensor, renoise: Tensor, prompts: Conditioning, rung: int
) -> tuple[Tensor, list[Tensor]]:
    """Return the student's input x (B, C, H, H) at `rung`, and its x_0 at each rung before.

    It is what the student itself draws up to there (DMD2's backward simulation, arXiv 2405.14867, sec. 4.5),
    so that a training needs no pictures and sees the inputs of sampling. No gradient passes through it.

    Args:
        noise: z, (B, C, H, H), the input at rung 0.
        renoise: Noise that is added at the rungs from 1 on, (B, N - 1, C, H, H).
        prompts: Conditioning of B prompts.
        rung: The rung, from 0.
    """
    noisy, predictions = noise, []
    for before in range(rung):
        predictions.append(backbone.one_step(student, noisy, prompts, before))
        noisy = backbone.renoise(predictions[-1], renoise[:, before], before + 1)
    return noisy, predictions


def draw_noise(
    backbone: Backbone, count: int, generator: torch.Generator, later: torch.Generator | None = None
) -> Tensor:
    """Return the noise of every step, (B, N, C, H, H), on the CPU, for B = `count` pictures.

    The first step's is drawn first and from `generator`, so that students of any number of steps start from
    the same noise. The other steps' is drawn from `later`, by default from the same generator.
    """
    shape = (count, *backbone.latent_shape)
    noises = [torch.randn(shape, generator=generator)]
    for _ in range(backbone.student_steps - 1):
        noises.append(torch.randn(shape, generator=later or generator))
    return torch.stack(noises, 1)
