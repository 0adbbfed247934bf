"""Exports opened by stock diffusers, in one process that cannot import this project, draw the student.

Every student and export is written first; then one process draws them all.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.clean_process import run_clean
from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.small_published import LAYOUTS
from tests.support.toy_students import (
    adapter_student,
    every_layer,
    every_weight,
    styled_student,
    whole_student,
)
from workloads.backbones.families import FAMILIES, family_of
from workloads.backbones.teacher_pipeline import call_arguments, open_pipeline
from workloads.export.formats import Export, Exported, export_student, formats_of
from workloads.students.origin import load_origin
from workloads.students.sampler import Generator

PROMPT = "A large RED circle"
TEACHERS = {**LAYOUTS, **FLOW_FAMILIES}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MORE = (
    *ATTENTION,
    "proj_in",
    "ff.net.2",
    "conv1",
    "time_emb_proj",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)
SIZES = {"sd3": 0.25, "klein": 0.5}
"""Sizes of adapters that change the pictures of toys which depend little on their attention."""
FULL = 32
"""Rank of the widest layer of the three UNets."""
HALF = 2e-3
"""Largest difference of pictures in [-1, 1] that half precision of the weights makes."""
PROGRAM = """
import json
import diffusers
def draw(pipeline, call):
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(generator=torch.Generator().manual_seed(0), output_type="pt", **call).images
    return pictures.float() * 2 - 1
def use_folder(folder, call):
    return [draw(diffusers.DiffusionPipeline.from_pretrained(folder), call)]
def use_file(kind, file, folder, call):
    pipeline = getattr(diffusers, kind).from_single_file(file, config=folder, local_files_only=True)
    return [draw(pipeline, call)]
def use_lora(base, lora, scheduler, call):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
    pipeline.scheduler = getattr(diffusers, scheduler).from_pretrained(lora, subfolder="scheduler")
    pictures = [draw(pipeline, call)]
    pipeline.load_lora_weights(lora)
    pictures.append(draw(pipeline, call))
    pipeline.fuse_lora()
    return [*pictures, draw(pipeline, call)]
drawn = {name: globals()[use](*given) for name, (use, *given) in json.load(open("jobs.json")).items()}
torch.save(drawn, "drawn.pt")
"""


@dataclass(frozen=True)
class Case:
    """A student of a toy teacher, in one format."""

    teacher: str
    student: str
    """`adapter`, `adapter-of-more`, `layers` (changes that a LoRA can hold), `styled` (these, with
    text encoders that are changed too) or `whole`."""
    format: str
    rank: int | None = None

    def __str__(self) -> str:
        return f"{self.teacher}-{self.student}-{self.format}" + (f"-{self.rank}" if self.rank else "")


STUDENTS: dict[str, Callable[[Path, Path], None]] = {
    "adapter": lambda teacher, folder: adapter_student(
        teacher, folder, ATTENTION, SIZES.get(teacher.name, 0.1)
    ),
    "adapter-of-more": lambda teacher, folder: adapter_student(teacher, folder, MORE),
    "layers": lambda teacher, folder: whole_student(teacher, folder, every_layer),
    "styled": lambda teacher, folder: styled_student(teacher, folder),
    "whole": lambda teacher, folder: whole_student(teacher, folder, every_weight),
}
EQUAL = (
    *(Case(name, "adapter", "lora") for name in TEACHERS if name != "pixart-sigma"),
    Case("z-image", "adapter", "kohya"),
    *(Case(name, "adapter-of-more", "kohya") for name in LAYOUTS),
    *(Case(name, "layers", kind, FULL) for name in LAYOUTS for kind in ("lora", "kohya")),
    *(Case(name, "styled", "lora", FULL) for name in ("sd15", "sdxl")),
    *(Case(name, "styled", "kohya", FULL) for name in ("sd21", "sdxl")),
    *(Case(name, "whole", "single-file") for name in LAYOUTS),
    *(Case(name, "whole", "diffusers") for name in ("sd15", "sdxl", "pixart-sigma", "sd3")),
)
"""Exports whose pictures are the student's."""
RANKS = tuple(Case("sd21", "whole", "lora", rank) for rank in (2, 8, FULL))
"""A whole student at growing ranks; biases and norms are in no LoRA."""


@dataclass(frozen=True)
class Drawn:
    """Pictures of one case."""

    expected: Tensor
    """By the student itself."""
    pictures: list[Tensor]
    """By stock diffusers; of a LoRA: without it, with it loaded, with it fused."""
    exported: Exported

    @property
    def distances(self) -> list[float]:
        """Largest difference of each picture from the expected one."""
        return [(picture - self.expected).abs().max().item() for picture in self.pictures]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Drawn]:
    """The pictures of all cases."""
    root = tmp_path_factory.mktemp("exports")
    made = {case: _export(root, case) for case in (*EQUAL, *RANKS)}
    jobs = {str(case): _job(root, case, made[case].folder) for case in made}
    (root / "jobs.json").write_text(json.dumps(jobs))
    run_clean(PROGRAM, root)
    pictures = torch.load(root / "drawn.pt")
    expected = {
        folder: Generator(folder).draw(PROMPT, [0]) for folder in {_student(root, case) for case in made}
    }
    return {
        case: Drawn(expected[_student(root, case)], pictures[str(case)], exported)
        for case, exported in made.items()
    }


def _student(root: Path, case: Case) -> Path:
    return root / f"{case.teacher}-{case.student}"


def _export(root: Path, case: Case) -> Exported:
    """Write teacher, student and export of a case, each once."""
    teacher, student = root / case.teacher, _student(root, case)
    if not teacher.exists():
        TEACHERS[case.teacher](teacher)
    if not student.exists():
        STUDENTS[case.student](teacher, student)
    origin, folder = load_origin(student), root / str(case)
    assert origin is not None
    export = Export(case.format, "toy", str(folder), origin.base, origin, case.rank)
    return export_student(student, export, folder)


def _job(root: Path, case: Case, folder: Path) -> list[Any]:
    """Return the function of PROGRAM for a case, and its arguments."""
    student = str(_student(root, case))
    family, (scheduler, call) = family_of(student), _call(student)
    if case.format == "diffusers":
        return ["use_folder", str(folder), call]
    if case.format == "single-file":
        return ["use_file", family.pipeline, str(folder / "toy.safetensors"), str(folder), call]
    return ["use_lora", str(root / case.teacher), str(folder), scheduler, call]


@cache
def _call(student: str) -> tuple[str, dict[str, Any]]:
    """Return the class of a student's scheduler, and the arguments with which its stock pipeline draws it."""
    pipeline, scale = open_pipeline(student), family_of(student).neutral_guidance
    call = {"prompt": PROMPT, "num_inference_steps": 1, "guidance_scale": scale}
    return type(pipeline.scheduler).__name__, call | call_arguments(pipeline)


@pytest.mark.parametrize("case", EQUAL, ids=str)
def test_stock_diffusers_draws_the_student(case: Case, drawn: dict[Case, Drawn]) -> None:
    distances = drawn[case].distances
    if case.format in ("lora", "kohya"):
        before, *distances = distances
        assert before > 10 * HALF, "the LoRA changes nothing"
        assert len(distances) == 2, "loaded and fused"
    assert max(distances) < HALF


def test_more_rank_holds_more_of_a_whole_student(drawn: dict[Case, Drawn]) -> None:
    loras = [drawn[case].exported.lora for case in RANKS]
    kept = [lora.kept for lora in loras if lora]
    errors = [drawn[case].distances[1] for case in RANKS]
    assert kept == sorted(kept) and errors == sorted(errors, reverse=True), (kept, errors)
    assert loras[-1] is not None
    (part,) = loras[-1].parts
    assert part.kept == pytest.approx(part.layers) and 0 < part.others < part.layers
    assert kept[-1] == pytest.approx(part.layers / (part.layers + part.others)) and kept[0] < 0.5


def test_formats_are_those_of_the_stock_pipelines() -> None:
    import diffusers

    for family in FAMILIES:
        assert family.loads_lora == hasattr(getattr(diffusers, family.pipeline), "load_lora_weights")
    of = {family.pipeline: formats_of(family) for family in FAMILIES}
    assert of["StableDiffusionXLPipeline"] == ("diffusers", "lora", "kohya", "single-file")
    assert of["ZImagePipeline"] == ("diffusers", "lora", "kohya")
    assert of["Flux2KleinPipeline"] == ("diffusers", "lora")
    assert of["PixArtAlphaPipeline"] == ("diffusers",)
