"""Exports are opened by stock diffusers in a process that cannot import this project, and draw the student."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.clean_process import run_clean
from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.small_published import LAYOUTS
from tests.support.toy_students import adapter_student, every_layer, every_weight, whole_student
from workloads.backbones.backbone import load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.export.formats import Export, export_student, formats_of
from workloads.export.lora import student_lora
from workloads.students.origin import load_origin
from workloads.students.sampler import Generator

PROMPT = "A large RED circle"
TEACHERS = {**LAYOUTS, **FLOW_FAMILIES}
LORA = [name for name in TEACHERS if name != "pixart-sigma"]
OF_ORIGINAL_CODE = list(LAYOUTS)
KOHYA = [*LAYOUTS, "z-image"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
HALF = 2e-3
"""Largest difference of pictures in [-1, 1] of one network in half precision and in sums of two weights."""
DRAW = """
import json
call = json.loads(sys.argv[2])
def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(generator=torch.Generator().manual_seed(0), output_type="pt", **call).images
    return pictures.float() * 2 - 1
"""
USE_LORA = (
    DRAW
    + """
import diffusers
from diffusers import DiffusionPipeline
base, lora, scheduler = sys.argv[3:6]
pipeline = DiffusionPipeline.from_pretrained(base, safety_checker=None) if "sd15" in base else (
    DiffusionPipeline.from_pretrained(base))
plain = getattr(diffusers, scheduler).from_pretrained(lora, subfolder="scheduler")
pipeline.scheduler = plain
before = draw(pipeline)
pipeline.load_lora_weights(lora)
loaded = draw(pipeline)
pipeline.fuse_lora()
torch.save([before, loaded, draw(pipeline)], sys.argv[1])
"""
)
USE_FILE = (
    DRAW
    + """
import diffusers
kind, file, folder = sys.argv[3:6]
pipeline = getattr(diffusers, kind).from_single_file(file, config=folder, local_files_only=True)
torch.save([draw(pipeline)], sys.argv[1])
"""
)
USE_FOLDER = (
    DRAW
    + """
from diffusers import DiffusionPipeline
torch.save([draw(DiffusionPipeline.from_pretrained(sys.argv[3]))], sys.argv[1])
"""
)


@dataclass(frozen=True)
class Place:
    """Folders of one test."""

    root: Path

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def student(self) -> Path:
        return self.root / "student"

    def export(self, name: str, rank: int | None = None) -> Path:
        """Export the student in the format `name`; return the folder."""
        origin = load_origin(self.student)
        assert origin is not None
        folder = self.root / name
        export_student(self.student, Export(name, "toy", str(folder), origin.base, origin, rank), folder)
        return folder

    def draw(self, program: str, *arguments: str) -> list[Tensor]:
        """Draw in a clean process."""
        import json

        family, pipeline = family_of(str(self.student)), open_pipeline(str(self.student))
        call = {
            "prompt": PROMPT, "num_inference_steps": 1, "guidance_scale": family.neutral_guidance,
            **call_arguments(pipeline),
        }  # fmt: skip
        run_clean(program, self.root, "drawn.pt", json.dumps(call), *arguments)
        pictures: list[Tensor] = torch.load(self.root / "drawn.pt")
        return pictures

    def draw_lora(self, folder: Path) -> list[Tensor]:
        """Draw with the plain base, with the LoRA, and with the LoRA fused."""
        return self.draw(USE_LORA, str(self.teacher), str(folder), _scheduler(folder))

    def expected(self) -> Tensor:
        return Generator(self.student).draw(PROMPT, [0])


def _scheduler(folder: Path) -> str:
    import json

    name: str = json.loads((folder / "scheduler/scheduler_config.json").read_text())["_class_name"]
    return name


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """The folder of a toy teacher."""
    made = Place(tmp_path / request.param)
    made.root.mkdir()
    TEACHERS[request.param](made.teacher)
    return made


def distance(pictures: Tensor, expected: Tensor) -> float:
    return (pictures - expected).abs().max().item()


@pytest.mark.parametrize("place", LORA, indirect=True)
def test_an_adapter_student_is_the_lora_that_was_trained(place: Place) -> None:
    adapter_student(place.teacher, place.student, ATTENTION)
    before, loaded, fused = place.draw_lora(place.export("lora"))
    expected = place.expected()
    assert distance(before, expected) > 10 * HALF, "the adapters change nothing"
    assert distance(loaded, expected) < HALF and distance(fused, expected) < HALF


@pytest.mark.parametrize("place", KOHYA, indirect=True)
def test_kohyas_names_are_the_same_lora(place: Place) -> None:
    ends = ATTENTION if place.root.name == "z-image" else (*ATTENTION, "conv1", "proj_in", "ff.net.2")
    adapter_student(place.teacher, place.student, ends)
    before, loaded, fused = place.draw_lora(place.export("kohya"))
    expected = place.expected()
    assert distance(before, expected) > 10 * HALF
    assert distance(loaded, expected) < HALF and distance(fused, expected) < HALF


@pytest.mark.parametrize("name", ["lora", "kohya"])
@pytest.mark.parametrize("place", OF_ORIGINAL_CODE, indirect=True)
def test_a_whole_student_at_full_rank_is_the_student(place: Place, name: str) -> None:
    """All that a LoRA can hold: weights of linear and convolution layers, of many ranks."""
    whole_student(place.teacher, place.student, every_layer)
    before, loaded, fused = place.draw_lora(place.export(name, rank=288))
    expected = place.expected()
    assert distance(before, expected) > 10 * HALF
    assert distance(loaded, expected) < HALF and distance(fused, expected) < HALF


@pytest.mark.parametrize("place", OF_ORIGINAL_CODE, indirect=True)
def test_one_file_is_the_student(place: Place) -> None:
    whole_student(place.teacher, place.student)
    folder = place.export("single-file")
    kind = family_of(str(place.student)).pipeline
    (drawn,) = place.draw(USE_FILE, kind, str(folder / "toy.safetensors"), str(folder))
    assert distance(drawn, place.expected()) < HALF


@pytest.mark.parametrize("place", ["sd15", "sdxl", "pixart-sigma", "sd3"], indirect=True)
def test_a_folder_is_the_student(place: Place) -> None:
    whole_student(place.teacher, place.student)
    (drawn,) = place.draw(USE_FOLDER, str(place.export("diffusers")))
    assert distance(drawn, place.expected()) < HALF
    assert "lora" not in formats_of(family_of(str(place.student))) or place.root.name != "pixart-sigma"


@pytest.mark.parametrize("place", ["sd21"], indirect=True)
def test_more_rank_keeps_more_of_a_whole_student(place: Place) -> None:
    whole_student(place.teacher, place.student, every_weight)
    origin = load_origin(place.student)
    assert origin is not None
    kept = [student_lora(place.student, origin.base, origin, rank) for rank in (1, 4, 16, 288)]
    assert [lora.kept for lora in kept] == sorted(lora.kept for lora in kept)
    (part,) = kept[-1].parts
    assert part.kept == pytest.approx(part.layers) and 0 < part.others < part.layers
    assert kept[-1].kept == pytest.approx(part.layers / (part.layers + part.others)) and kept[-1].kept < 1
    errors = []
    for lora in kept:
        load_backbone(str(place.teacher))
        errors.append(lora.kept)
    del load_file, errors
