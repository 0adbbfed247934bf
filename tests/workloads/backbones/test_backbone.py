"""Backbones of every family, and folders that are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor

from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import open_pipeline
from workloads.miniature import TEACHERS, WEIGHTS


@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_family_predicts_epsilon(teacher: str) -> None:
    source = str(WEIGHTS / teacher)
    backbone = load_backbone(source)
    assert backbone.latent_shape == ((16, 4, 4) if teacher == "sana" else (4, 8, 8))
    assert backbone.start_timestep == (400 if teacher == "pixart" else 999)
    prompts = TextEncoder(source).encode(["a red circle", "a blue square at the top"])
    assert (prompts.mask is not None) == (teacher in ("pixart", "sana"))
    noise = torch.randn(2, *backbone.latent_shape)
    latents = torch.zeros_like(noise)
    t = torch.tensor([800, 800])
    noisy = backbone.schedule.add_noise(latents, noise, t)
    epsilon = backbone.epsilon(backbone.network, noisy, t, prompts)
    assert epsilon.shape == noise.shape and epsilon.dtype == torch.float32
    # At high noise any working teacher predicts most of the noise.
    assert (epsilon - noise).square().mean() < 0.2


def test_padding_is_ignored() -> None:
    source = str(WEIGHTS / "pixart")
    backbone = load_backbone(source)
    prompts = TextEncoder(source).encode(["a red circle"])
    assert prompts.mask is not None
    changed = prompts.embeddings.clone()
    changed[prompts.mask == 0] = 7.0
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    a = backbone.epsilon(backbone.network, x, t, prompts)
    b = backbone.epsilon(backbone.network, x, t, type(prompts)(changed, prompts.mask))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_pixart_takes_size_conditions_at_1024() -> None:
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=48,
        sample_size=8,
        caption_channels=16,
        use_additional_conditions=True,
    ).eval()
    backbone = replace(load_backbone(str(WEIGHTS / "pixart")), network=network, latent_scale=8)
    latents, t, prompts = torch.randn(2, 4, 8, 8), torch.tensor([500, 500]), torch.randn(2, 3, 16)

    def conditioned_on(pixels: float, ratio: float) -> Tensor:
        added = {"resolution": torch.full((2, 2), pixels), "aspect_ratio": torch.full((2, 1), ratio)}
        call = {"encoder_hidden_states": prompts, "timestep": t, "added_cond_kwargs": added}
        output: Tensor = network(latents, **call, return_dict=False)[0]
        return output[:, :4]

    predicted = backbone.predict(network, latents, t, Conditioning(prompts))
    torch.testing.assert_close(predicted, conditioned_on(64, 1))
    for other in (conditioned_on(512, 1), conditioned_on(64, 2)):
        assert not torch.allclose(predicted, other)


def test_pixart_prompts_match_stock_pipeline(tmp_path: Path) -> None:
    """The pipeline lowercases prompts; the miniature's tokenizer does too, which is turned off here."""
    source = tmp_path / "pixart"
    shutil.copytree(WEIGHTS / "pixart", source)
    file = source / "tokenizer" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": None}))
    pipeline = open_pipeline(str(source))
    prompt = " A Large RED Circle"
    with torch.no_grad():
        stock, mask, *_ = pipeline.encode_prompt(prompt, False, max_sequence_length=16)
    encoded = TextEncoder(str(source)).encode([prompt])
    assert encoded.mask is not None and torch.equal(encoded.mask[:, :16], mask)
    kept = mask.bool()
    torch.testing.assert_close(encoded.embeddings[:, :16][kept], stock[kept], rtol=0, atol=1e-5)


def test_safety_checker_is_removed(tmp_path: Path) -> None:
    """Teacher images are compared with those of students, which no safety checker filters."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 8, "patch_size": 4})
    pipeline = open_pipeline(str(WEIGHTS / "unet-v"))
    pipeline.register_modules(
        safety_checker=StableDiffusionSafetyChecker(config), feature_extractor=CLIPImageProcessor()
    )
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["safety_checker"][0] is not None
    assert open_pipeline(str(tmp_path)).safety_checker is None


def test_folder_without_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a diffusers pipeline"):
        load_backbone(str(tmp_path))


def test_unsupported_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(
        ValueError, match="class FluxPipeline is not supported; supported are: StableDiffusionPipeline, St"
    ):
        load_backbone(str(tmp_path))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "unet-v"
    shutil.copytree(WEIGHTS / "unet-v", folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"its unet has no .* but .*\.bin, a pickle"):
        load_backbone(str(folder))


def test_start_outside_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="start_timestep 1000 is outside the schedule"):
        load_backbone(str(WEIGHTS / "unet-v"), start_timestep=1000)
