"""Students are drawn by the stock pipeline in a process that knows nothing of this project."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.flow_layouts import FLOW_FAMILIES
from workloads.backbones.backbone import load_backbone
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.students.sampler import Generator
from workloads.students.student import new_student, save_student

PROMPT = "A large RED circle"
PROGRAM = """
import sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pictures = pipeline(
    prompt=sys.argv[3], num_inference_steps=1, guidance_scale={scale}, output_type="pt",
    generator=torch.Generator().manual_seed(0), **{arguments}
).images
torch.save(pictures * 2 - 1, sys.argv[2])
print(type(pipeline).__name__, [name for name in sys.modules if name.startswith("workloads")])
"""


@pytest.mark.parametrize("name", FLOW_FAMILIES)
def test_stock_process_draws_the_student(name: str, tmp_path: Path) -> None:
    teacher, folder, drawn = tmp_path / "teacher", tmp_path / "student", tmp_path / "drawn.pt"
    FLOW_FAMILIES[name](teacher)
    backbone = load_backbone(str(teacher))
    torch.manual_seed(1)
    student = new_student(backbone)
    with torch.no_grad():  # another network than the teacher's
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    save_student(backbone, student, folder)
    arguments = call_arguments(open_pipeline(str(folder)))
    program = PROGRAM.format(scale=backbone.family.neutral_guidance, arguments=arguments)
    # -I: isolated from the environment's variables, the user's packages and the working directory.
    command = [sys.executable, "-I", "-c", program, str(folder), str(drawn), PROMPT]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[-2] == f"{backbone.family.pipeline} []"
    ours = Generator(folder).draw(PROMPT, [0])
    assert torch.allclose(torch.load(drawn), ours, atol=1e-3)
    assert not torch.allclose(ours, Generator(folder).draw(PROMPT, [1]), atol=0.05)
