"""Students of two and four steps are drawn by stock pipelines in a process without this project."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.teacher_layouts import FAMILIES
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.students.sampler import Generator, load_student
from workloads.students.schedulers import with_student_steps
from workloads.students.student import decode, generate, load_autoencoder, new_student, save_student
from workloads.students.unroll import draw_noise

PROMPT = "a large RED circle"
STEPS = (2, 4)
PROGRAM = """
import sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
import torch
from diffusers import DiffusionPipeline
for steps in {steps}:
    pipeline = DiffusionPipeline.from_pretrained(sys.argv[1] + str(steps))
    network, calls = pipeline.components.get("unet") or pipeline.components["transformer"], []
    network.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(7)
    pictures = pipeline(
        prompt=sys.argv[2], num_inference_steps=steps, guidance_scale={scale}, output_type="pt",
        generator=torch.Generator().manual_seed(0), **{arguments}
    ).images
    assert len(calls) == steps, calls
    torch.save(pictures * 2 - 1, sys.argv[1] + f"drawn-{{steps}}.pt")
print(type(pipeline).__name__, [name for name in sys.modules if name.startswith("workloads")])
"""
TOYS: dict[str, Any] = {**FLOW_FAMILIES, "sdxl": FAMILIES["sdxl"]}
START = {"unet-epsilon": 400, "unet-v": 700, "pixart": 400}


def teacher_of(name: str, folder: Path) -> Backbone:
    if name in TEACHERS:
        return load_backbone(str(WEIGHTS / name), start_timestep=START.get(name))
    TOYS[name.removesuffix("-toy")](folder)
    return load_backbone(str(folder))


def save(teacher: Backbone, prefix: str) -> None:
    """Save students of two and of four steps, with another network than the teacher's."""
    torch.manual_seed(1)
    student = new_student(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    for steps in STEPS:
        save_student(with_student_steps(teacher, steps), student, Path(f"{prefix}{steps}"))


def noise_of(student: Backbone) -> Tensor:
    """Return the stock pipeline's noise, (1, N, C, H, H): of the generator of seed 0, or of torch's own too.

    FLUX.2's has the layout of its latents, which are tokens.
    """
    generator = torch.Generator().manual_seed(0)
    if not student.family.joint:
        return draw_noise(student, 1, generator)
    noise, own = (
        torch.zeros(1, student.student_steps, *student.latent_shape),
        torch.Generator().manual_seed(7),
    )
    noise[:, 0] = torch.randn(1, *student.latent_shape, generator=generator)
    for step in range(1, student.student_steps):
        if student.family.pipeline == "Flux2KleinPipeline":
            channels, size, _ = student.latent_shape
            tokens = torch.randn(1, size * size, channels, generator=own)
            noise[:, step] = tokens.transpose(1, 2).reshape(1, channels, size, size)
        else:
            noise[:, step] = torch.randn(1, *student.latent_shape, generator=own)
    return noise


def ours(folder: str) -> Tensor:
    """Draw with the noise of the stock pipeline."""
    student, prompts = load_student(folder), TextEncoder(folder).encode([PROMPT])
    latents = generate(student, student.network, noise_of(student), prompts)
    return decode(load_autoencoder(folder), latents)


@pytest.mark.parametrize("name", [*TEACHERS, *(f"{name}-toy" for name in TOYS)])
def test_stock_process_draws_students_of_several_steps(name: str, tmp_path: Path) -> None:
    teacher, prefix = teacher_of(name, tmp_path / "teacher"), f"{tmp_path}/student-"
    save(teacher, prefix)
    arguments = call_arguments(open_pipeline(f"{prefix}2"))
    scale = teacher.family.neutral_guidance
    program = PROGRAM.format(steps=STEPS, scale=scale, arguments=arguments)
    # -I: isolated from the environment's variables, the user's packages and the working directory.
    command = [sys.executable, "-I", "-c", program, prefix, PROMPT]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[-2] == f"{teacher.family.pipeline} []"
    for steps in STEPS:
        drawn = torch.load(f"{prefix}drawn-{steps}.pt")
        assert torch.allclose(drawn, ours(f"{prefix}{steps}"), atol=1e-3)
        other = Generator(Path(f"{prefix}{steps}")).draw(PROMPT, [0])
        assert teacher.family.joint or torch.allclose(drawn, other, atol=1e-3)
        assert not torch.allclose(drawn, Generator(Path(f"{prefix}{steps}")).draw(PROMPT, [1]), atol=0.05)
