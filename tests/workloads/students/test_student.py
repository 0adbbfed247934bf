"""A saved student is an ordinary pipeline that generates in one step what the trainer generates."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from workloads.backbones.backbone import load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.backbones.teacher_pipeline import call_arguments
from workloads.layers.lora import network_of
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import LoraSettings
from workloads.students.ema import AverageWeights, copy_weights
from workloads.students.schedulers import one_step_scheduler
from workloads.students.student import generate, new_student, save_student
from workloads.training.step import PlainEngine

PROMPTS = ["a large red circle", "a tiny blue square on a white background"]


@pytest.mark.parametrize("teacher", TEACHERS)
def test_stock_pipeline_matches_generate(teacher: str, tmp_path: Path) -> None:
    source = str(WEIGHTS / teacher)
    backbone = load_backbone(source, start_timestep=None if family_of(source).flow else 700)
    student = new_student(backbone).eval()
    save_student(backbone, student, tmp_path / "student")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "student")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    calls = []
    network = getattr(pipeline, backbone.family.network)
    network.register_forward_hook(lambda *_: calls.append(1))
    stock = pipeline(
        PROMPTS,
        latents=noise,
        output_type="latent",
        num_inference_steps=1,
        guidance_scale=1.0,
        **call_arguments(pipeline),
    ).images
    ours = generate(backbone, student, noise, TextEncoder(source).encode(PROMPTS))
    torch.testing.assert_close(stock, ours, rtol=0, atol=0.02)
    assert len(calls) == 1


@pytest.mark.parametrize("teacher", ["unet-epsilon", "unet-v", "pixart"])
@pytest.mark.parametrize("start", [400, 700, 999])
def test_one_step_scheduler_keeps_alpha_bar(teacher: str, start: int) -> None:
    source = str(WEIGHTS / teacher)
    scheduler = one_step_scheduler(load_backbone(source, start_timestep=start))
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [start]
    betas = DDIMScheduler.from_pretrained(source, subfolder="scheduler").betas
    assert torch.equal(scheduler.alphas_cumprod, (1 - betas).cumprod(0)[: start + 1])


@pytest.mark.parametrize("teacher", [name for name in TEACHERS if family_of(str(WEIGHTS / name)).flow])
def test_one_step_of_flow_matching_starts_at_noise(teacher: str) -> None:
    scheduler = one_step_scheduler(load_backbone(str(WEIGHTS / teacher)))
    scheduler.set_timesteps(1)
    assert (scheduler.timesteps.tolist(), scheduler.sigmas.tolist()) == ([1000.0], [1.0, 0.0])


def test_unets_share_a_text_encoder() -> None:
    digests = {teacher: encoder_digest(str(WEIGHTS / teacher)) for teacher in TEACHERS}
    assert digests["unet-epsilon"] == digests["unet-v"] != digests["pixart"]


def test_average_follows_and_loads() -> None:
    network = torch.nn.Linear(2, 2)
    weights = dict(network.named_parameters())
    average = AverageWeights(weights, decay=0.5)
    first = average.weights["weight"].clone()
    with torch.no_grad():
        network.weight += 1
    average.update(weights, step=100)
    torch.testing.assert_close(average.weights["weight"], first + 0.5)
    other = AverageWeights(dict(torch.nn.Linear(2, 2).named_parameters()), decay=0.5)
    other.load(average.weights)
    copy_weights(other.weights, network)
    torch.testing.assert_close(network.weight, first + 0.5)


def test_start_from_another_family_is_refused() -> None:
    backbone = load_backbone(str(WEIGHTS / "unet-v"))
    with pytest.raises(ValueError, match=r"is not of .* family"):
        new_student(backbone, str(WEIGHTS / "pixart"))


def test_start_from_another_prediction_is_refused() -> None:
    """Family and shapes match, so nothing else would reveal that its output is misread."""
    backbone = load_backbone(str(WEIGHTS / "unet-v"))
    with pytest.raises(ValueError, match=r"unet-epsilon' predicts 'epsilon', its teacher .* 'v_prediction'"):
        new_student(backbone, str(WEIGHTS / "unet-epsilon"))


def test_unneeded_files_are_not_copied(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(WEIGHTS / "unet-v", teacher)
    (teacher / "onnx").mkdir()
    extra = ("all-in-one.safetensors", "onnx/model.onnx", "vae/diffusion_pytorch_model.fp16.safetensors")
    for file in extra:
        (teacher / file).write_bytes(b"large")
    (teacher / "LICENSE").write_text("terms")
    backbone = load_backbone(str(teacher))
    save_student(backbone, new_student(backbone), tmp_path / "student")
    kept = {str(path.relative_to(tmp_path / "student")) for path in (tmp_path / "student").rglob("*")}
    assert not kept & {*extra, "onnx"}
    assert kept >= {"LICENSE", "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"}


def test_adapter_is_merged_when_saved(tmp_path: Path) -> None:
    """The saved network has the averaged adapter in its weights; the adapter is in a file of its own too."""
    backbone = load_backbone(str(WEIGHTS / "pixart"), start_timestep=400)
    student = new_student(backbone, lora=LoraSettings(4, 8, ("to_q", "to_v")))
    average = AverageWeights(PlainEngine(student, 1e-4, PGSBSettings()).weights, decay=0.5)
    assert all(name.startswith(("down.", "up.")) for name in average.weights)
    copy_weights({name: weight + 0.1 for name, weight in average.weights.items()}, student)
    save_student(backbone, student, tmp_path / "student")
    saved = load_backbone(str(tmp_path / "student"), start_timestep=400)
    noise = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = TextEncoder(backbone.source).encode(PROMPTS)
    ours, theirs = (generate(backbone, network, noise, prompts) for network in (student, saved.network))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.02)
    assert (theirs - generate(backbone, backbone.network, noise, prompts)).abs().max() > 0.1
    lora = load_file(tmp_path / "student" / "pytorch_lora_weights.safetensors")
    down, up = (lora.pop(f"transformer.transformer_blocks.0.attn1.to_q.lora_{x}.weight") for x in "AB")
    before, after = (
        network.get_parameter("transformer_blocks.0.attn1.to_q.weight")
        for network in (load_backbone(backbone.source).network, saved.network)
    )
    torch.testing.assert_close(after, before + up @ down, rtol=1e-3, atol=1e-3)
    assert len(lora) == len(average.weights) - 2


def test_a_student_with_its_own_start_is_adapted_there(tmp_path: Path) -> None:
    """The teacher's network does not have its adapters."""
    backbone = load_backbone(str(WEIGHTS / "pixart"))
    whole = new_student(backbone)
    nn.init.zeros_(whole.get_parameter("proj_out.bias"))
    save_student(backbone, whole, tmp_path / "start")
    student = new_student(backbone, str(tmp_path / "start"), LoraSettings(4, 8, ("to_q",)))
    assert network_of(student) is not backbone.network
    assert not network_of(student).get_parameter("proj_out.bias").any()
    assert network_of(new_student(backbone, None, LoraSettings(4, 8, ("to_q",)))) is backbone.network
