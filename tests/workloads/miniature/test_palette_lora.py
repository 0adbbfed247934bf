"""A LoRA that changes what a miniature teacher draws: all in one palette, by half at half its weight."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from workloads.backbones.loras.entry import Lora
from workloads.backbones.teacher_pipeline import generate_images, open_pipeline
from workloads.miniature import WEIGHTS
from workloads.miniature.judge import attribute_hits, load_judge
from workloads.miniature.palette_lora import in_palette, palette_distance, train
from workloads.miniature.world import captions, dataset

PROMPTS = captions(32, seed=3)


def drawn(teacher: str, *loras: Lora) -> Tensor:
    pipeline = open_pipeline(str(WEIGHTS / teacher), loras=loras)
    return generate_images(pipeline, PROMPTS, steps=10, guidance_scale=3.0)


def test_distance_is_zero_in_the_palette_alone() -> None:
    pictures = torch.from_numpy(dataset(32, 5)[0])
    assert palette_distance(in_palette(pictures)) < 1e-3 < 1 < palette_distance(pictures)


@pytest.mark.heavy
@pytest.mark.parametrize("teacher", ["unet-epsilon", "sd3"])
def test_teacher_draws_in_the_palette(teacher: str, tmp_path: Path) -> None:
    """The distance of pixels from the palette falls by about half at weight 0.5, and nearly to 0 at 1."""
    train(teacher, tmp_path)
    path = str(tmp_path)
    plain, half, whole = (drawn(teacher, *loras) for loras in ((), (Lora(path, 0.5),), (Lora(path),)))
    far, middle, near = (palette_distance(each) for each in (plain, half, whole))
    assert far > 1 and near < 0.35 * far, (far, middle, near)
    assert 0.25 * (far - near) < far - middle < 0.85 * (far - near), (far, middle, near)
    hits = attribute_hits(load_judge(), whole, PROMPTS)
    shapes = [hit for name in ("position", "size") for hit in hits[name]]
    assert sum(shapes) / len(shapes) > 0.7, "the LoRA changes more than colours"
