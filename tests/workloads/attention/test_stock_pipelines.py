"""Stock pipelines draw one step within guidance, and compute x_0 = e - v of the guided network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
)
from torch import Tensor

from tests.workloads.attention.joint_networks import TOYS, Toy, texts
from workloads.attention import AttentionGuidance
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.settings.train import AttentionGuidanceSettings

NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
SCHEDULER = FlowMatchEulerDiscreteScheduler()
COMMON = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "latent"}


def draw_sd3(toy: Toy, prompts: Conditioning) -> Tensor:
    nothing = dict.fromkeys(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    pipe = StableDiffusion3Pipeline(toy.network, SCHEDULER, None, **nothing)
    drawn: Tensor = pipe(
        prompt_embeds=prompts.embeddings,
        pooled_prompt_embeds=prompts.pooled,
        latents=NOISE,
        height=64,
        width=64,
        **COMMON,
    ).images
    return drawn


def draw_flux2(toy: Toy, prompts: Conditioning) -> Tensor:
    vae = AutoencoderKLFlux2(
        latent_channels=1, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4,
    ).eval()  # fmt: skip
    pipe = Flux2KleinPipeline(SCHEDULER, vae, None, None, toy.network)
    given = {"prompt_embeds": prompts.embeddings, "sigmas": [1.0], "height": 128, "width": 128}
    drawn = pipe(latents=NOISE, **given, **COMMON).images
    scale = (1 + vae.config.batch_norm_eps) ** 0.5  # of fresh batch-norm statistics
    latents: Tensor = F.pixel_unshuffle(drawn, 2) / scale
    return latents


def draw_z_image(toy: Toy, prompts: Conditioning) -> Tensor:
    pipe = ZImagePipeline(SCHEDULER, None, None, None, toy.network)
    embeddings = list(prompts.embeddings)
    drawn: Tensor = pipe(prompt_embeds=embeddings, latents=NOISE, height=64, width=64, **COMMON).images
    return drawn


DRAWS: dict[str, tuple[Callable[[Toy, Conditioning], Tensor], Callable[[Toy, Conditioning], Tensor]]] = {
    "sd3.5": (draw_sd3, lambda toy, prompts: NOISE - toy.call(toy.network, NOISE, torch.ones(2), prompts)),
    "flux2": (draw_flux2, lambda toy, prompts: NOISE - toy.call(toy.network, NOISE, torch.ones(2), prompts)),
    "z-image": (
        draw_z_image,
        lambda toy, prompts: NOISE + toy.call(toy.network, NOISE, torch.zeros(2), prompts),
    ),
}


@pytest.mark.parametrize("kind", ["nag", "vsf"])
@pytest.mark.parametrize("name", DRAWS)
@torch.no_grad()
def test_pipeline_draws_within_guidance(name: str, kind: Any) -> None:
    toy, prompts, negative = TOYS[name](), texts(1, rows=2), texts(2, rows=1)
    draw, expected = DRAWS[name]
    plain = draw(toy, prompts)
    torch.testing.assert_close(plain, expected(toy, prompts), rtol=1e-4, atol=1e-4)
    with AttentionGuidance(toy.network, negative, AttentionGuidanceSettings(kind, 2.0)):
        guided = draw(toy, prompts)
        torch.testing.assert_close(guided, expected(toy, prompts), rtol=1e-4, atol=1e-4)
    assert (guided - plain).abs().max() > 1e-3
    assert torch.equal(draw(toy, prompts), plain)
