"""Students of two and four steps are drawn by stock pipelines in a process without this project."""

import json
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
from workloads.backbones.families import family_of
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
import json, sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
import torch
from diffusers import DiffusionPipeline
for job in json.load(open(sys.argv[1])):
    pipeline = DiffusionPipeline.from_pretrained(job["folder"])
    network, calls = pipeline.components.get("unet") or pipeline.components["transformer"], []
    network.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(7)
    pictures = pipeline(**job["call"], output_type="pt", generator=torch.Generator().manual_seed(0)).images
    assert len(calls) == job["call"]["num_inference_steps"], calls
    torch.save(pictures * 2 - 1, job["folder"] + ".pt")
print([name for name in sys.modules if name.startswith("workloads")])
"""
TOYS: dict[str, Any] = {**FLOW_FAMILIES, "sdxl": FAMILIES["sdxl"]}
NAMES = [*TEACHERS, *(f"{name}-toy" for name in TOYS)]
START = {"unet-epsilon": 400, "unet-v": 700, "pixart": 400}


def teacher_of(name: str, folder: Path) -> Backbone:
    if name in TEACHERS:
        return load_backbone(str(WEIGHTS / name), start_timestep=START.get(name))
    TOYS[name.removesuffix("-toy")](folder)
    return load_backbone(str(folder))


def save(name: str, place: Path) -> list[dict[str, Any]]:
    """Save students of two and of four steps, with another network than the teacher's; return their jobs."""
    teacher = teacher_of(name, place / f"{name}-teacher")
    student, generator = new_student(teacher), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    jobs: list[dict[str, Any]] = []
    for steps in STEPS:
        folder = place / f"{name}-{steps}"
        save_student(with_student_steps(teacher, steps), student, folder)
        jobs.append({"folder": str(folder), "call": {"prompt": PROMPT, "num_inference_steps": steps}})
    arguments = call_arguments(open_pipeline(str(folder)))
    arguments["guidance_scale"] = teacher.family.neutral_guidance
    return [{**job, "call": {**job["call"], **arguments}} for job in jobs]


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every student, and beside it what the other process drew with it."""
    place = tmp_path_factory.mktemp("students")
    jobs = [job for name in NAMES for job in save(name, place)]
    (place / "jobs.json").write_text(json.dumps(jobs))
    # -I: isolated from the environment's variables, the user's packages and the working directory.
    command = [sys.executable, "-I", "-c", PROGRAM, str(place / "jobs.json")]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[-2] == "[]"
    return place


def noise_of(student: Backbone) -> Tensor:
    """Return the stock pipeline's noise, (1, N, C, H, H): of the generator of seed 0, or of torch's own too.

    FLUX.2's has the layout of its latents, which are tokens.
    """
    generator = torch.Generator().manual_seed(0)
    if not student.family.joint:
        return draw_noise(student, 1, generator)
    own = torch.Generator().manual_seed(7)
    noise = torch.zeros(1, student.student_steps, *student.latent_shape)
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


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", NAMES)
def test_stock_process_draws_students_of_several_steps(name: str, steps: int, students: Path) -> None:
    folder = students / f"{name}-{steps}"
    drawn, generator = torch.load(f"{folder}.pt"), Generator(folder)
    assert torch.allclose(drawn, ours(str(folder)), atol=1e-3)
    assert family_of(str(folder)).joint or torch.allclose(drawn, generator.draw(PROMPT, [0]), atol=1e-3)
    assert not torch.allclose(drawn, generator.draw(PROMPT, [1]), atol=0.05)
