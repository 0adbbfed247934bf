"""The training of the miniature teachers of flow matching."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from workloads.backbones.teacher_pipeline import generate_images
from workloads.miniature import flow_networks
from workloads.miniature.flow_recipe import TEACHERS, autoencoder_with_shift, flow_loss
from workloads.miniature.world import captions, dataset

AUTOENCODERS = {
    "sana": flow_networks.deep_compression_autoencoder,
    "sd3": autoencoder_with_shift,
}


@pytest.fixture(scope="module", params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> tuple[str, DiffusionPipeline]:
    torch.manual_seed(0)
    pipeline = TEACHERS[request.param].assemble(AUTOENCODERS[request.param]())
    pipeline.set_progress_bar_config(disable=True)
    return request.param, pipeline


def test_loss_of_the_exact_velocity_is_zero(teacher: tuple[str, DiffusionPipeline]) -> None:
    """With x_t = (1 - t) x_0 + t e, the velocity e - x_0 is (x_t - x_0) / t."""
    latents = torch.randn(64, 4, 2, 2)

    def exact(_: DiffusionPipeline, noisy: Tensor, timestep: Tensor, texts: list[str]) -> Tensor:
        assert len(texts) == 64 and timestep.min() > 0 and timestep.max() <= 1_000
        return (noisy - latents) / (timestep.view(-1, 1, 1, 1) / 1_000)

    known = replace(TEACHERS[teacher[0]], predict=exact)
    assert flow_loss(known, teacher[1], latents, [""] * 64) < 1e-6


def test_training_calls_the_network_as_stock_does(teacher: tuple[str, DiffusionPipeline]) -> None:
    """The stock pipeline's first call, at guidance scale 1, is the network's output in training."""
    name, pipeline = teacher
    prompts, seen = captions(3, seed=1), []
    hook = pipeline.transformer.register_forward_hook(
        lambda _, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True
    )
    generate_images(pipeline, prompts, steps=2, guidance_scale=1.0)
    hook.remove()
    args, kwargs, (out,) = seen[0]
    noisy = kwargs.get("hidden_states", args[0] if args else None)
    with torch.no_grad():
        ours = TEACHERS[name].predict(pipeline, noisy, kwargs["timestep"].float(), prompts)
    assert torch.allclose(ours, out, atol=1e-5)


def test_stock_decoding_inverts_the_shift() -> None:
    """Latents of the training have mean 0 and variance 1, and stock decoding gives the pictures back."""
    vae = autoencoder_with_shift()
    pictures = torch.from_numpy(dataset(200, seed=12)[0])
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    with torch.no_grad():
        latents = (vae.encode(pictures).latent_dist.mean - shift) * scale
        decoded = vae.decode(latents / scale + shift).sample
    assert latents.mean().abs() < 0.03 and abs(latents.std() - 1) < 0.03
    assert (decoded - pictures).square().mean().sqrt() < 0.12
