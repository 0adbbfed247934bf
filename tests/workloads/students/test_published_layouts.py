"""Students of teachers in the layouts of published folders: each promise is kept, or one line refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests.support.cli import SWEEP, refused, written
from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.teacher_layouts import (
    FAMILIES,
    Change,
    added,
    edited,
    in_float16,
    index,
    linked,
    removed,
    renamed,
    saved_again,
    scheduler,
    without,
)
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.file_checks import check_files
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.shape_checks import check_shapes
from workloads.backbones.teacher_pipeline import call_arguments, generate_images, open_pipeline
from workloads.students.sampler import Generator, load_student
from workloads.students.student import new_student, save_student

PROMPT = "  A large RED circle, café "
SINGLE = "diffusion_pytorch_model.safetensors"
CHECKER, TEXT = "safety_checker/model.safetensors", "text_encoder/model.safetensors"
CLASSES = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
V = {"prediction_type": "v_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
NUMBERS = ("", "_2", "_3")
FLOW_EULER = scheduler(_class_name="FlowMatchEulerDiscreteScheduler", shift=3.0)
BETAS = (torch.linspace(0.02, 0.12, 1000) ** 2).tolist()


@dataclass(frozen=True)
class Layout:
    """A family, its changes, and the timestep at which the student is called (None: the family's)."""

    family: str
    changes: tuple[Change, ...] = ()
    start: int | None = None


def of(family: str, *changes: Change, start: int | None = None) -> Layout:
    return Layout(family, changes, start)


LAYOUTS = {
    **{family: of(family) for family in (*FAMILIES, *FLOW_FAMILIES)},
    "sana-euler": of("sana", FLOW_EULER),
    "sana-fp16-shards": of("sana", in_float16("transformer", True), in_float16("text_encoder", True)),
    "sd3-fp16": of("sd3", *map(in_float16, ("transformer", "vae", *(f"text_encoder{n}" for n in NUMBERS)))),
    "sd3-dynamic": of("sd3", scheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)),
    "klein-distilled": of("klein", index(is_distilled=True)),
    "z-image-shards": of("z-image", saved_again("transformer", max_shard_size="60KB"), linked),
    "sigma-old-transformer": of("pixart-sigma", index(transformer=["diffusers", "Transformer2DModel"])),
    "checker-absent": of("sd15", removed("safety_checker")),
    "checker-pickled": of("sd15", removed(CHECKER), added("safety_checker/pytorch_model.bin")),
    "checker-fp16": of("sd15", renamed(CHECKER, "model.fp16.safetensors")),
    "checker-required": of("sd21", index(requires_safety_checker=True)),
    "extractor-absent": of("sd21", removed("feature_extractor")),
    "image-encoder-listed": of(
        "sdxl", index(image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    ),
    "watermarker": of("sdxl", index(add_watermarker=True)),
    "no-zeros": of("sdxl", index(force_zeros_for_empty_prompt=False)),
    "old-index": of("sd15", index(_diffusers_version="0.2.4", _name_or_path="/home/someone/model")),
    "old-vae": of("sd15", without("vae/config.json", "scaling_factor")),
    "all-fp16": of("sd15", *map(in_float16, ("unet", "vae", "text_encoder"))),
    "xl-fp16": of("sdxl", *map(in_float16, ("unet", "vae", "text_encoder", "text_encoder_2"))),
    "fp16-shards": of("sd15", in_float16("unet", True), in_float16("text_encoder", True)),
    "t5-shards": of("pixart", saved_again("text_encoder", max_shard_size="100KB")),
    "t5-fp16-shards": of("pixart", in_float16("text_encoder", True), in_float16("transformer", True)),
    "both-precisions": of("sd15", added(f"vae/{SINGLE}".replace("model.", "model.fp16."), "other weights")),
    "index-left-over": of("sd15", added(f"{TEXT}.index.json", "{}")),
    "links": of("pixart", linked),
    "new-transformer": of("pixart", index(transformer=["diffusers", "PixArtTransformer2DModel"])),
    "fast-tokenizer": of("pixart", index(tokenizer=["transformers", "T5TokenizerFast"])),
    "length-unknown": of("sd15", edited("tokenizer/tokenizer_config.json", model_max_length=10**30)),
    **{name: of("sd15", scheduler(_class_name=name)) for name in CLASSES},
    "sde": of("sdxl", scheduler(_class_name="DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++")),
    "clipped": of("sd21", scheduler(_class_name="DDIMScheduler", clip_sample=True, thresholding=True)),
    "offset-0": of("sd15", scheduler(steps_offset=0, set_alpha_to_one=True)),
    "sdxl-trailing": of("sdxl", scheduler(timestep_spacing="trailing", use_karras_sigmas=True)),
    "zero-snr-v": of("sd21", scheduler(_class_name="DDIMScheduler", **V, **ZERO_SNR)),
    "zero-snr-v-500": of("sd21", scheduler(_class_name="DDIMScheduler", **V, **ZERO_SNR), start=500),
    "zero-snr-sample": of(
        "sd15", scheduler(_class_name="DDIMScheduler", **ZERO_SNR, prediction_type="sample")
    ),
    "zero-snr-epsilon": of("sdxl", scheduler(**ZERO_SNR)),
    "linear": of("sd15", scheduler(beta_schedule="linear")),
    "scaled": of("pixart", scheduler(beta_schedule="scaled_linear")),
    "cosine": of(
        "sd15", scheduler(_class_name="DDIMScheduler", beta_schedule="squaredcos_cap_v2"), start=600
    ),
    "cosine-v": of("sd21", scheduler(_class_name="DDPMScheduler", beta_schedule="squaredcos_cap_v2", **V)),
    "sigmoid": of("sd15", scheduler(_class_name="DDPMScheduler", beta_schedule="sigmoid"), start=700),
    "own-betas": of("sd15", scheduler(trained_betas=BETAS)),
    "500-steps": of("sd15", scheduler(num_train_timesteps=500), start=499),
}
"""Layouts of published folders, by name."""


@dataclass(frozen=True)
class Student:
    teacher: Backbone
    folder: Path


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Layout], Path]:
    """Writes the folder of a layout."""

    def write(layout: Layout) -> Path:
        folder = tmp_path_factory.mktemp("layout") / "teacher"
        for change in ({**FAMILIES, **FLOW_FAMILIES}[layout.family], *layout.changes):
            change(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def student_of(folder_of: Callable[[Layout], Path]) -> Callable[[str], Student]:
    """Saves the untrained student of a layout, once."""
    made: dict[str, Student] = {}

    def save(name: str) -> Student:
        if name not in made:
            folder = folder_of(LAYOUTS[name])
            teacher = load_backbone(str(folder), start_timestep=LAYOUTS[name].start)
            save_student(teacher, new_student(teacher), folder.parent / "student")
            made[name] = Student(teacher, folder.parent / "student")
        return made[name]

    return save


every = pytest.mark.parametrize("name", LAYOUTS)


@every
def test_checks_accept(name: str, student_of: Callable[[str], Student]) -> None:
    source = student_of(name).teacher.source
    check_files(source)
    check_shapes(source)


@every
def test_stock_diffusers_draws_the_student(name: str, student_of: Callable[[str], Student]) -> None:
    """Opened and called as the model card says, it draws what `generate` and the registered model draw."""
    folder = student_of(name).folder
    assert torch.allclose(stock(folder), Generator(folder).draw(PROMPT, [0]), atol=1e-3)


@every
def test_schedule_and_prompts_are_kept(name: str, student_of: Callable[[str], Student]) -> None:
    teacher, folder = student_of(name).teacher, student_of(name).folder
    student = load_student(str(folder))
    assert student.start_timestep == teacher.start_timestep
    assert student.schedule.prediction == teacher.schedule.prediction
    assert torch.equal(student.schedule.alpha, teacher.schedule.alpha[: teacher.start_timestep + 1])
    encoders = [TextEncoder(source) for source in (str(folder), teacher.source)]
    for negative in (False, True):
        ours, theirs = (each.encode([PROMPT, ""], negative=negative).parts for each in encoders)
        assert all(torch.equal(ours[part], theirs[part]) for part in theirs)


@every
def test_folder_has_what_its_index_lists(name: str, student_of: Callable[[str], Student]) -> None:
    folder = student_of(name).folder
    listed = json.loads((folder / "model_index.json").read_text())
    parts = {part for part, entry in listed.items() if isinstance(entry, list) and entry[0] is not None}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == parts
    assert not [path for path in folder.rglob("*") if path.suffix == ".bin" or ".fp16" in path.name]
    for part in (part for part in parts if not part.startswith("tokenizer")):
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        stated = json.loads(file.read_text()).get("_class_name")
        assert stated in (None, listed[part][1])


@pytest.mark.parametrize(
    "name", ["sd15", "sdxl", "pixart", "checker-absent", "xl-fp16", "length-unknown", *FLOW_FAMILIES]
)
def test_teacher_draws(name: str, student_of: Callable[[str], Student]) -> None:
    pipeline = open_pipeline(student_of(name).teacher.source)
    pictures = generate_images(pipeline, [PROMPT], steps=2, guidance_scale=2.0)
    side = {"sana": 64, "klein": 32}.get(name, 16)
    assert pictures.shape == (1, 3, side, side) and pictures.isfinite().all()


def stock(folder: Path) -> Tensor:
    """Draw as the model card says, with seed 0; return (1, 3, P, P) in [-1, 1]."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    # PixArt's defaults suit pictures of 512 or 1024 pixels only.
    sizes = call_arguments(pipeline) if hasattr(pipeline, "transformer") else {}
    generator = torch.Generator().manual_seed(0)
    scale = family_of(str(folder)).neutral_guidance
    call = {"num_inference_steps": 1, "guidance_scale": scale, "generator": generator, "output_type": "pt"}
    pictures: Tensor = pipeline(prompt=PROMPT, **call, **sizes).images
    return pictures * 2 - 1


UNET, T5 = f"unet/{SINGLE}", "tokenizer/spiece.model"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n"
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
REFUSED: dict[str, tuple[Layout, str]] = {
    "zero-snr-at-999": (
        of("sd15", scheduler(**ZERO_SNR)), r"start_timestep 999 of .* alpha 0 there.*: set at most 996"
    ),
    "cosine-at-999": (
        of("sd15", scheduler(**COSINE)), r"alpha 5e-05 there.* set at most 998"
    ),
    "500-steps": (of("sd15", scheduler(num_train_timesteps=500)), r"999 is outside .* 1\.\.500"),
    "edm": (of("sdxl", scheduler(timestep_type="continuous", **V)), r"continuous timesteps"),
    "flow": (of("sdxl", scheduler(prediction_type="flow_prediction")), r"'flow_prediction' .* not supported"),
    "flow-sigmas": (of("sdxl", scheduler(use_flow_sigmas=True)), r"does not suit StableDiffusionXLPipeline"),
    "no-schedule": (of("sdxl", scheduler(beta_schedule="warped")), r"cannot be read: warped"),
    "unknown-scheduler": (
        of("sd15", index(scheduler=["diffusers", "OwnScheduler"])), r"scheduler OwnScheduler is not one of"
    ),
    "pointer": (of("pixart", removed(T5), added(T5, POINTER)), r"spiece\.model is no sentencep"),
    "tokenizer-torn": (of("sd15", removed("tokenizer/merges.txt")), r"its tokenizer cannot be read"),
    "only-non-ema": (
        of("sd15", renamed(UNET, SINGLE.replace("model.", "model.non_ema."))),
        r"its unet has no .* but .*non_ema\.safetensors: .*variant=",
    ),
    "odd-shards": (
        of("sd15", in_float16("unet", True), removed(f"unet/{SINGLE}.index.fp16.json")),
        r"its unet has no .* but .*fp16-00001-of-\d+\.safetensors: .*save_pretrained",
    ),
    "lcm": (of("sdxl", edited("unet/config.json", time_cond_proj_dim=256)), r"has time_cond_proj_dim"),
    "vae-of-means": (of("sdxl", edited("vae/config.json", latents_mean=[0.0] * 4)), r"vae has latents_mean"),
}  # fmt: skip
"""Folders of other kinds, and what the one line says."""


@pytest.mark.parametrize(("layout", "pattern"), REFUSED.values(), ids=REFUSED)
def test_others_are_refused_before_start(
    layout: Layout,
    pattern: str,
    folder_of: Callable[[Layout], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = written(tmp_path, SWEEP.replace("miniature/pixart", str(folder_of(layout))))
    capsys.readouterr()  # progress bars of the libraries that wrote the folder
    refused(capsys, pattern, sweep, "--storage", str(tmp_path / "results"))
