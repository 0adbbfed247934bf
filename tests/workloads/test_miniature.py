"""The miniature world, its judge, and the shipped teachers."""

import hashlib
import json
import random

import pytest
import torch

from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.judge import load_judge
from workloads.miniature.world import (
    ATTRIBUTES,
    Scene,
    caption,
    captions,
    dataset,
    named_attributes,
    random_scene,
    render,
)
from workloads.scorers.attributes import AttributeAccuracy
from workloads.teacher import draw, open_pipeline


def test_a_caption_names_just_what_it_was_asked_to() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = random_scene(rng)
        named = [name for name in ATTRIBUTES if rng.random() < 0.5]
        asked = {name: getattr(scene, name) for name in named}
        assert named_attributes(caption(scene, named, rng)) == asked


def test_prompts_from_elsewhere_may_name_little_or_nothing() -> None:
    assert named_attributes("a photo of a bench") == {}
    assert named_attributes("A Big bus, left of a RED car") == {
        "size": "large", "position": "left", "colour": "red",
    }  # fmt: skip


def test_pictures_are_a_function_of_the_seed() -> None:
    assert (dataset(5, 1)[0] == dataset(5, 1)[0]).all()
    assert captions(20, 1) == captions(20, 1) != captions(20, 2)


def test_the_judge_reads_clean_pictures() -> None:
    """The bar is 99 % of every attribute, on pictures that it was not trained on."""
    pictures, scenes, _ = dataset(2_000, seed=99)
    read = load_judge().read(torch.from_numpy(pictures))
    for name in ATTRIBUTES:
        right = sum(seen[name] == getattr(scene, name) for seen, scene in zip(read, scenes, strict=True))
        assert right / len(scenes) >= 0.99, name


def test_the_judge_sees_a_changed_picture() -> None:
    scene = Scene("circle", "red", "large", "left", "white")
    other = Scene("circle", "blue", "large", "right", "white")
    pictures = torch.stack([torch.from_numpy(render(s, random.Random(0))) for s in (scene, other)])
    first, second = load_judge().read(pictures)
    assert (first["colour"], first["position"]) == ("red", "left")
    assert (second["colour"], second["position"]) == ("blue", "right")


def test_shipped_weights_are_the_ones_that_were_measured() -> None:
    digests = json.loads((WEIGHTS / "digests.json").read_text())
    files = {p.relative_to(WEIGHTS).as_posix(): p for p in WEIGHTS.rglob("*.safetensors")}
    assert set(files) == set(digests)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digests[name], name
    assert sum(path.stat().st_size for path in files.values()) < 16e6


@pytest.mark.parametrize("teacher", TEACHERS)
def test_shipped_teachers_draw_what_captions_say(teacher: str) -> None:
    """A quick look (64 captions); the README holds the measurement on more."""
    prompts = captions(64, seed=11)
    pictures = draw(open_pipeline(str(WEIGHTS / teacher)), prompts, steps=20, guidance_scale=3.0)
    score = AttributeAccuracy().score(pictures, prompts)[0]
    assert score.samples > 200
    assert score.value >= 0.93
