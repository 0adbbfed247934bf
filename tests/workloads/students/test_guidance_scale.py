"""Students that read their guidance scale: saved, opened, and drawn by stock pipelines of another process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.workloads.students.test_stock_steps import NAMES, PROMPT, START, teacher_of
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.export.formats import check_format
from workloads.layers.guidance_input import GuidanceConditioned
from workloads.miniature import WEIGHTS
from workloads.students.guidance_scale import set_default
from workloads.students.merge import merge_students
from workloads.students.sampler import Generator
from workloads.students.scale_range import ScaleRange, load_scales
from workloads.students.schedulers import with_student_steps
from workloads.students.student import new_student, save_student

SCALES = (1.0, 2.5, 7.5)
RANGE = ScaleRange(1.0, 7.5, default=2.5, neutral=2.5)
UNETS = ("unet-epsilon", "unet-v", "sdxl-toy")
PROGRAM = """
import json, sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
import torch
from diffusers import DiffusionPipeline
for job in json.load(open(sys.argv[1])):
    pipeline = DiffusionPipeline.from_pretrained(job["folder"])
    network, batches = pipeline.components.get("unet") or pipeline.components["transformer"], []
    network.register_forward_hook(lambda _, inputs, output: batches.append(len(output[0])))
    drawn = {}
    for scale in job["scales"]:
        call = dict(job["call"], guidance_scale=scale)
        pictures = pipeline(**call, output_type="pt", generator=torch.Generator().manual_seed(0)).images
        drawn[scale] = pictures * 2 - 1
    # One call of one row for each picture: no second call, and no pair of rows.
    assert batches == [1] * len(job["scales"]), batches
    torch.save(drawn, job["folder"] + ".pt")
print([name for name in sys.modules if name.startswith("workloads")])
"""


def changed_student(teacher: Backbone) -> GuidanceConditioned:
    """Return a student whose network and embedding are changed at random instead of trained."""
    student, generator = new_student(teacher, neutral_scale=2.5), torch.Generator().manual_seed(1)
    assert isinstance(student, GuidanceConditioned)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return student


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student of each teacher, and beside it what the other process drew with it."""
    place, jobs = tmp_path_factory.mktemp("students"), []
    for name in NAMES:
        teacher, folder = teacher_of(name, place / f"{name}-teacher"), place / name
        save_student(teacher, changed_student(teacher), folder, RANGE)
        arguments = call_arguments(open_pipeline(str(folder)))
        scales = SCALES if name in UNETS else [teacher.family.neutral_guidance]
        call = {"prompt": PROMPT, "num_inference_steps": 1, **arguments}
        jobs.append({"folder": str(folder), "call": call, "scales": scales})
    (place / "jobs.json").write_text(json.dumps(jobs))
    # -I: isolated from the environment's variables, the user's packages and the working directory.
    command = [sys.executable, "-I", "-c", PROGRAM, str(place / "jobs.json")]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[-2] == "[]"
    return place


@pytest.mark.parametrize("name", NAMES)
def test_stock_pipelines_draw_at_the_scale(name: str, students: Path) -> None:
    """Those of Stable Diffusion draw at any scale; those of transformers at the student's default."""
    drawn, generator = torch.load(students / f"{name}.pt"), Generator(students / name)
    for given, picture in drawn.items():
        scale = given if name in UNETS else None
        torch.testing.assert_close(picture, generator.draw(PROMPT, [0], scale=scale), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_follow_the_scale(name: str, students: Path) -> None:
    generator = Generator(students / name)
    low, default, high = (generator.draw(PROMPT, [0], scale=scale) for scale in SCALES)
    assert (low - default).abs().mean() > 1e-4 < (high - default).abs().mean()
    assert torch.equal(default, generator.draw(PROMPT, [0]))
    with pytest.raises(ValueError, match="guidance scale 8 is outside of the interval 1 to 7"):
        generator.draw(PROMPT, [0], scale=8.0)


@pytest.mark.parametrize("name", ["unet-v", "pixart", "sd3"])
def test_default_scale_can_be_chosen_later(name: str, tmp_path: Path) -> None:
    teacher = load_backbone(str(WEIGHTS / name), start_timestep=START.get(name))
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    before = Generator(tmp_path / "student").draw(PROMPT, [0], scale=7.5)
    set_default(tmp_path / "student", 7.5)
    generator = Generator(tmp_path / "student")
    neutral = 2.5 if name in UNETS else 7.5
    assert generator.scales == ScaleRange(1.0, 7.5, default=7.5, neutral=neutral)
    torch.testing.assert_close(generator.draw(PROMPT, [0]), before, rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="outside of the interval"):
        set_default(tmp_path / "student", 0.5)


def test_a_new_student_ignores_the_scale() -> None:
    """Its embedding starts at zero, so that training starts from the teacher."""
    teacher = load_backbone(str(WEIGHTS / "pixart"), start_timestep=400)
    student = new_student(teacher, neutral_scale=2.5)
    latents, scale = torch.randn(2, *teacher.latent_shape), torch.tensor([1.0, 7.5])
    call = {
        "encoder_hidden_states": torch.randn(2, 5, teacher.kind.text_width(teacher.config)),
        "timestep": torch.tensor([400, 400]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    with torch.no_grad():
        ours, plain = student(latents, guidance_scale=scale, **call), teacher.network(latents, **call)
    assert torch.equal(ours.sample, plain.sample)


def test_students_of_several_steps_read_it_too(tmp_path: Path) -> None:
    teacher = with_student_steps(load_backbone(str(WEIGHTS / "unet-v"), start_timestep=700), 2)
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    generator = Generator(tmp_path / "student")
    low, high = (generator.draw(PROMPT, [0], scale=scale) for scale in (1.0, 7.5))
    assert (low - high).abs().mean() > 1e-3


def test_other_students_have_no_scale(tmp_path: Path) -> None:
    teacher = load_backbone(str(WEIGHTS / "pixart"), start_timestep=400)
    save_student(teacher, new_student(teacher), tmp_path / "student")
    assert load_scales(tmp_path / "student") is None
    with pytest.raises(ValueError, match="does not read guidance scales"):
        Generator(tmp_path / "student").draw(PROMPT, [0], scale=2.0)


def test_default_of_a_network_without_a_bias(tmp_path: Path) -> None:
    """FLUX.2's embedding of time has none: its weights go on to draw at the neutral scale."""
    teacher = teacher_of("klein-toy", tmp_path / "teacher")
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    before = Generator(tmp_path / "student").draw(PROMPT, [0], scale=7.5)
    set_default(tmp_path / "student", 7.5)
    generator = Generator(tmp_path / "student")
    assert generator.scales == ScaleRange(1.0, 7.5, default=7.5, neutral=2.5)
    assert torch.equal(generator.draw(PROMPT, [0]), before)


def test_students_that_read_their_scale_are_not_merged_or_exported(tmp_path: Path) -> None:
    """No other format holds the embedding, so a part of the student would be lost in silence."""
    teacher = load_backbone(str(WEIGHTS / "unet-v"), start_timestep=700)
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    folder = str(tmp_path / "student")
    with pytest.raises(ValueError, match="reads its guidance scale, and such students cannot be merged"):
        merge_students(folder, folder, tmp_path / "out")
    check_format(tmp_path / "student", "diffusers")
    for name in ("lora", "kohya", "single-file"):
        with pytest.raises(ValueError, match=f"which format {name} cannot hold: choose diffusers"):
            check_format(tmp_path / "student", name)


def test_no_student_starts_from_one_that_reads_its_scale(tmp_path: Path) -> None:
    teacher = load_backbone(str(WEIGHTS / "unet-v"), start_timestep=700)
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    with pytest.raises(ValueError, match="differs in shapes"):
        new_student(teacher, str(tmp_path / "student"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("guidance_scale.json", b"{"),
        ("guidance_scale.json", b"[]"),
        ("guidance_scale.json", b'{"low": 1}'),
        ("guidance_scale.json", b'{"low": "a", "high": 2, "default": 1, "neutral": 1}'),
        ("guidance_embedding.safetensors", b"torn"),
    ],
)
def test_damaged_files_are_named(file: str, content: bytes, tmp_path: Path) -> None:
    teacher = load_backbone(str(WEIGHTS / "pixart"), start_timestep=400)
    save_student(teacher, changed_student(teacher), tmp_path / "student", RANGE)
    (tmp_path / "student" / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"its {file}"):
        Generator(tmp_path / "student")
