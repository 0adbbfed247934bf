"""Students are drawn by the stock pipeline in a process that knows nothing of this project."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.flow_layouts import FLOW_FAMILIES
from workloads.backbones.backbone import load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.students.sampler import Generator
from workloads.students.student import new_student, save_student

PROMPT = "A large RED circle"
PROGRAM = """
import json, sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
import torch
from diffusers import DiffusionPipeline
found = {}
for folder, call in json.load(open(sys.argv[1])).items():
    pipeline = DiffusionPipeline.from_pretrained(folder)
    found[folder] = type(pipeline).__name__
    pictures = pipeline(
        **call, num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    torch.save(pictures * 2 - 1, folder + ".pt")
assert not [name for name in sys.modules if name.startswith("workloads")]
print(json.dumps(found))
"""


def save(name: str, place: Path) -> tuple[Path, dict[str, Any]]:
    """Save a student with another network than the teacher's; return it with the arguments of its call."""
    teacher, folder = place / f"{name}-teacher", place / name
    FLOW_FAMILIES[name](teacher)
    backbone = load_backbone(str(teacher))
    torch.manual_seed(1)
    student = new_student(backbone)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    save_student(backbone, student, folder)
    arguments = call_arguments(open_pipeline(str(folder)))
    return folder, {"prompt": PROMPT, "guidance_scale": backbone.family.neutral_guidance, **arguments}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pipeline's class by folder of each student; beside a folder is what the process drew with it.

    One process for all, since each imports diffusers.
    """
    place = tmp_path_factory.mktemp("students")
    jobs = {str(folder): call for folder, call in (save(name, place) for name in FLOW_FAMILIES)}
    (place / "jobs.json").write_text(json.dumps(jobs))
    # -I: isolated from the environment's variables, the user's packages and the working directory.
    command = [sys.executable, "-I", "-c", PROGRAM, str(place / "jobs.json")]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", FLOW_FAMILIES)
def test_stock_process_draws_the_student(name: str, drawn: dict[str, str]) -> None:
    (folder,) = [Path(each) for each in drawn if Path(each).name == name]
    assert drawn[str(folder)] == family_of(str(folder)).pipeline
    ours = Generator(folder).draw(PROMPT, [0])
    assert torch.allclose(torch.load(f"{folder}.pt"), ours, atol=1e-3)
    assert not torch.allclose(ours, Generator(folder).draw(PROMPT, [1]), atol=0.05)
