"""Latents that a teacher draws from given noise, by its stock pipeline with a deterministic sampler.

Shapes: N prompts, C latent channels, H latent size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from workloads.backbones.families import FAMILIES
from workloads.backbones.loras.entry import Lora
from workloads.backbones.teacher_pipeline import BATCH, call_arguments, open_pipeline


class TeacherSampler:
    """A teacher that maps noise and prompts to latents; the same noise always gives the same latents."""

    def __init__(self, source: str, device: str = "cpu", loras: Sequence[Lora] = ()) -> None:
        """Load the pipeline, and replace the scheduler of an alpha_bar schedule by DDIM.

        Raises:
            ValueError: A part of the pipeline cannot be opened.
        """
        self.pipeline: Any = open_pipeline(source, device, loras)
        self.family = next(each for each in FAMILIES if each.pipeline == type(self.pipeline).__name__)
        if not self.family.flow:
            self.pipeline.scheduler = deterministic(self.pipeline)
        self.source = source

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, H) of one picture's latents."""
        config = getattr(self.pipeline, self.family.network).config
        size = call_arguments(self.pipeline)["height"] // self.pipeline.vae_scale_factor
        return (int(config.in_channels), size, size)

    def draw(self, prompts: Sequence[str], noise: Tensor, steps: int, guidance_scale: float) -> Tensor:
        """Return the latents (N, C, H, H) that the teacher draws from `noise` (N, C, H, H), on the CPU.

        A `guidance_scale` of 1 means none, whatever the pipeline's own convention.

        Raises:
            ValueError: The pipeline has latents of another form than its network.
        """
        scale = guidance_scale + self.family.neutral_guidance - 1
        arguments = {**call_arguments(self.pipeline), "num_inference_steps": steps, "guidance_scale": scale}
        parts = []
        for row in range(0, len(prompts), BATCH):
            start = noise[row : row + BATCH].to(self.pipeline.device, self.pipeline.dtype)
            texts = list(prompts[row : row + BATCH])
            drawn = self.pipeline(prompt=texts, latents=start, output_type="latent", **arguments).images
            parts.append(drawn.float().cpu())
        found = torch.cat(parts)
        if found.shape != noise.shape:
            raise ValueError(
                f"backbone {self.source!r}: its pipeline has latents of the form {tuple(found.shape[1:])}, "
                f"its network {tuple(noise.shape[1:])}: pairs are not made for this family yet"
            )
        return found


def deterministic(pipeline: DiffusionPipeline) -> DDIMScheduler:
    """Return DDIM (arXiv 2010.02502) from pure noise to clean latents on the pipeline's schedule."""
    scheduler: DDIMScheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    return scheduler
