"""Students of teachers with LoRAs: network and text encoders of the saved folder have them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.lora_files import ATTENTION, TEXT_TARGETS, config, diffusers_file, network_of
from tests.support.teacher_layouts import FAMILIES, Change, in_float16, saved_again
from workloads.backbones.backbone import load_backbone
from workloads.backbones.loras.entry import Lora
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import call_arguments
from workloads.backbones.weight_files import find_weights
from workloads.students.sampler import Generator
from workloads.students.student import new_student, save_student

PROMPT = "a large red circle"
TEACHERS: dict[str, tuple[str, tuple[Change, ...], dict[str, list[str]]]] = {
    "sd15": ("sd15", (), {"text_encoder": TEXT_TARGETS}),
    "sdxl": ("sdxl", (), {"text_encoder": TEXT_TARGETS, "text_encoder_2": ["k_proj"]}),
    "fp16-shards": ("sd15", (in_float16("text_encoder", True),), {"text_encoder": TEXT_TARGETS}),
    "t5-shards": (
        "pixart",
        (saved_again("text_encoder", max_shard_size="100KB"),),
        {"text_encoder": ["q", "wo"]},
    ),
    "sd3-t5": ("sd3", (), {"text_encoder_3": ["q"]}),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_text_encoder_of_the_student_has_the_lora(name: str, tmp_path: Path) -> None:
    family, changes, parts = TEACHERS[name]
    source = tmp_path / "teacher"
    {**FAMILIES, **FLOW_FAMILIES}[family](source)
    settings = {part: config(targets) for part, targets in parts.items()}
    lora = Lora(
        str(diffusers_file(source, tmp_path / "lora", {**settings, network_of(source): config(ATTENTION)}))
    )
    for change in changes:
        change(source)
    before = {file: file.read_bytes() for file in source.rglob("*.safetensors")}
    teacher = load_backbone(str(source), loras=(lora,))
    save_student(teacher, new_student(teacher), tmp_path / "student")

    encoded = TextEncoder(str(source), loras=(lora,)).encode([PROMPT]).embeddings
    plain = TextEncoder(str(source)).encode([PROMPT]).embeddings
    saved = TextEncoder(str(tmp_path / "student")).encode([PROMPT]).embeddings
    assert (encoded - plain).abs().max() > 0.01
    torch.testing.assert_close(saved, encoded, rtol=2e-3, atol=2e-3)
    assert (
        stock(tmp_path / "student") - Generator(tmp_path / "student").draw(PROMPT, [0])
    ).abs().max() < 2e-3
    for part in parts:
        files = [find_weights(str(folder), part).files for folder in (source, tmp_path / "student")]
        assert [dtypes(file) for file in files[0]] == [dtypes(file) for file in files[1]]
    assert before == {file: file.read_bytes() for file in source.rglob("*.safetensors")}, (
        "the teacher was changed"
    )


def test_the_student_starts_from_the_teacher_with_its_loras(tmp_path: Path) -> None:
    """Unless it is started from another pipeline, which is taken as it is."""
    source = tmp_path / "teacher"
    FAMILIES["sd15"](source)
    lora = Lora(str(diffusers_file(source, tmp_path / "lora", {"unet": config(ATTENTION)})))
    teacher, plain = (
        load_backbone(str(source), loras=(lora,)),
        load_backbone(str(source)).network.state_dict(),
    )
    student, other = new_student(teacher).state_dict(), new_student(teacher, str(source)).state_dict()
    assert all(torch.equal(student[name], weight) for name, weight in teacher.network.state_dict().items())
    assert any(not torch.equal(student[name], weight) for name, weight in plain.items())
    assert all(torch.equal(other[name], weight) for name, weight in plain.items())


def dtypes(file: Path) -> dict[str, str]:
    """Precision of each tensor of a file."""
    with safe_open(file, "pt") as opened:
        return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118


def stock(folder: Path) -> torch.Tensor:
    """Draw with the stock pipeline in one step, with seed 0; return (1, 3, P, P) in [-1, 1]."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    sizes = call_arguments(pipeline) if hasattr(pipeline, "transformer") else {}
    generator = torch.Generator().manual_seed(0)
    call = {"num_inference_steps": 1, "guidance_scale": 1.0, "generator": generator, "output_type": "pt"}
    pictures: torch.Tensor = pipeline(prompt=PROMPT, **call, **sizes).images
    return pictures * 2 - 1
