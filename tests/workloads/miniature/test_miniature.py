"""The miniature world, its judge, and the shipped teachers."""

import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from workloads.backbones.teacher_pipeline import generate_images, open_pipeline
from workloads.miniature import CLIP, TEACHERS, WEIGHTS, clip_folder
from workloads.miniature.clip_recipe import report, said_of
from workloads.miniature.judge import labels, load_judge
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
from workloads.scorers.clip import ClipAgreement
from workloads.scorers.scorer import Request


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
    pictures = generate_images(open_pipeline(str(WEIGHTS / teacher)), prompts, steps=20, guidance_scale=3.0)
    score = AttributeAccuracy().score(pictures, prompts)[0]
    assert score.samples > 200
    assert score.value >= 0.93


def test_no_config_says_where_it_was_made() -> None:
    configs = list(WEIGHTS.rglob("*.json"))
    assert len(configs) > 10
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


def test_the_clip_model_sees_what_captions_say() -> None:
    """The bar is 99 % of every attribute, each among its values, on pictures that it was not trained on."""
    model = CLIPModel.from_pretrained(clip_folder(CLIP), dtype=torch.float32).eval()
    for found in report(model, count=2_000, seed=99).split(", "):
        name, share = found.split()
        assert name in ATTRIBUTES and float(share) >= 0.99, found


def test_clip_tells_a_right_caption_from_a_wrong_one() -> None:
    """Far enough apart for the published margin, 0.35, to lie between."""
    pictures, _, right = dataset(300, seed=99)
    wrong = captions(300, seed=98)
    requests = [Request(*pair) for pair in zip(right, wrong, strict=True)]
    scorer = ClipAgreement(CLIP, prefix="")
    scorer.load()
    found = scorer.measure(torch.from_numpy(pictures), requests)
    assert np.quantile(found["clip_plus"], 0.02) > 0.45
    assert np.quantile(found["clip_minus"], 0.85) < 0.35


def test_clip_shows_a_negative_that_is_there() -> None:
    """By the words of the scorer, of which the model has learnt the meaning."""
    pictures, scenes, _ = dataset(300, seed=97)
    scorer = ClipAgreement(CLIP)
    scorer.load()
    shown = scorer.measure(torch.from_numpy(pictures), [Request("a shape", "red")] * 300)["negative_shown"]
    red = np.array([scene.colour == "red" for scene in scenes])
    assert shown[red].mean() > 0.95 and shown[~red].mean() < 0.05


def test_contrastive_targets_are_all_that_is_right_and_how_much_it_says() -> None:
    """Of text j and picture i; by hand, word by word."""
    circle = Scene("circle", "red", "large", "left", "white")
    scenes = [circle, replace(circle, shape="square"), replace(circle, colour="blue")]
    texts = ["a red circle", "a photo of red", "a photo"]
    assert said_of(texts, labels(scenes)).tolist() == [[5, 3, 1], [0, 3, 1], [0, 0, 1]]
