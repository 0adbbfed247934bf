"""Backbones: what each family hides, and what is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from workloads.backbone import load_backbone
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.text import TextEncoder


@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_family_predicts_epsilon_of_the_latents_shape(teacher: str) -> None:
    source = str(WEIGHTS / teacher)
    backbone = load_backbone(source)
    assert backbone.latent_shape == (4, 8, 8)
    assert backbone.start_timestep == (400 if teacher == "pixart" else 999)
    prompts = TextEncoder(source).encode(["a red circle", "a blue square at the top"])
    assert (prompts.mask is not None) == (teacher == "pixart")
    noise = torch.randn(2, 4, 8, 8)
    latents = torch.zeros(2, 4, 8, 8)
    t = torch.tensor([800, 800])
    noisy = backbone.schedule.add_noise(latents, noise, t)
    epsilon = backbone.epsilon(backbone.network, noisy, t, prompts)
    assert epsilon.shape == (2, 4, 8, 8) and epsilon.dtype == torch.float32
    # At high noise any working teacher finds most of the noise.
    assert (epsilon - noise).square().mean() < 0.2


def test_padding_does_not_change_a_masked_prediction() -> None:
    source = str(WEIGHTS / "pixart")
    backbone = load_backbone(source)
    prompts = TextEncoder(source).encode(["a red circle"])
    assert prompts.mask is not None
    spoilt = prompts.embeddings.clone()
    spoilt[prompts.mask == 0] = 7.0
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    a = backbone.epsilon(backbone.network, x, t, prompts)
    b = backbone.epsilon(backbone.network, x, t, type(prompts)(spoilt, prompts.mask))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no diffusers pipeline there"):
        load_backbone(str(tmp_path))


def test_an_unsupported_pipeline_names_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="is a FluxPipeline; supported are: StableDiffusionPipeline, Stable"):
        load_backbone(str(tmp_path))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "unet-v"
    shutil.copytree(WEIGHTS / "unet-v", folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="its unet cannot be read"):
        load_backbone(str(folder))


def test_a_start_outside_the_schedule() -> None:
    with pytest.raises(ValueError, match="start_timestep 1000 is outside the schedule"):
        load_backbone(str(WEIGHTS / "unet-v"), start_timestep=1000)
