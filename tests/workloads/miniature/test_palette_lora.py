"""A LoRA that changes what a miniature teacher draws: all in one palette, by half at half its weight."""

from pathlib import Path

import torch
from torch import Tensor

from workloads.backbones.loras.entry import Lora
from workloads.backbones.teacher_pipeline import generate_images, open_pipeline
from workloads.miniature import WEIGHTS
from workloads.miniature.palette_lora import in_palette, palette_distance, train
from workloads.miniature.world import captions, dataset

PROMPTS = captions(12, seed=3)
PALETTE = str(Path(__file__).parents[2] / "support/palette")


def drawn(teacher: str, *loras: Lora) -> Tensor:
    pipeline = open_pipeline(str(WEIGHTS / teacher), loras=loras)
    return generate_images(pipeline, PROMPTS, steps=10, guidance_scale=3.0)


def test_distance_is_zero_in_the_palette_alone() -> None:
    pictures = torch.from_numpy(dataset(32, 5)[0])
    assert palette_distance(in_palette(pictures)) < 1e-3 < 1 < palette_distance(pictures)


def test_teacher_draws_in_the_palette() -> None:
    """The blue of the pictures falls by about half at weight 0.5, and by more than half at 1.

    The LoRA is that of `python -m workloads.miniature.palette_lora unet-epsilon`, in half precision.
    """
    plain, half, whole = (
        drawn("unet-epsilon", *loras) for loras in ((), (Lora(PALETTE, 0.5),), (Lora(PALETTE),))
    )
    far, middle, near = (palette_distance(each) for each in (plain, half, whole))
    assert far > 1 and near < 0.5 * far, (far, middle, near)
    assert 0.25 * (far - near) < far - middle < 0.75 * (far - near), (far, middle, near)


def test_a_trained_lora_is_read_back(tmp_path: Path) -> None:
    """A few steps change the pictures already."""
    train("pixart", tmp_path, steps=3)
    assert (drawn("pixart", Lora(str(tmp_path))) - drawn("pixart")).abs().max() > 0.005
