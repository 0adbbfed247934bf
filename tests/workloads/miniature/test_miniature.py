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
from workloads.miniature.clip_recipe import match_scores, report
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


def test_caption_names_only_the_given_attributes() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = random_scene(rng)
        named = [name for name in ATTRIBUTES if rng.random() < 0.5]
        asked = {name: getattr(scene, name) for name in named}
        assert named_attributes(caption(scene, named, rng)) == asked


def test_foreign_prompts_name_few_attributes() -> None:
    assert named_attributes("a photo of a bench") == {}
    assert named_attributes("A Big bus, left of a RED car") == {
        "size": "large", "position": "left", "colour": "red",
    }  # fmt: skip


def test_pictures_are_deterministic_in_the_seed() -> None:
    assert (dataset(5, 1)[0] == dataset(5, 1)[0]).all()
    assert captions(20, 1) == captions(20, 1) != captions(20, 2)


def test_judge_reads_clean_pictures() -> None:
    """At least 99 % of every attribute, on pictures outside the training set."""
    pictures, scenes, _ = dataset(2_000, seed=99)
    read = load_judge().read(torch.from_numpy(pictures))
    for name in ATTRIBUTES:
        right = sum(seen[name] == getattr(scene, name) for seen, scene in zip(read, scenes, strict=True))
        assert right / len(scenes) >= 0.99, name


def test_larger_pictures_show_the_same_scenes() -> None:
    """Means of 2 x 2 pixels are the small pictures, and the judge reads either size alike."""
    small, large = (torch.from_numpy(dataset(50, 1, pixels)[0]) for pixels in (16, 32))
    assert torch.allclose(large.reshape(50, 3, 16, 2, 16, 2).mean((3, 5)), small, atol=1e-5)
    assert load_judge().read(large) == load_judge().read(small)


def test_judge_distinguishes_two_scenes() -> None:
    scene = Scene("circle", "red", "large", "left", "white")
    other = Scene("circle", "blue", "large", "right", "white")
    pictures = torch.stack([torch.from_numpy(render(s, random.Random(0))) for s in (scene, other)])
    first, second = load_judge().read(pictures)
    assert (first["colour"], first["position"]) == ("red", "left")
    assert (second["colour"], second["position"]) == ("blue", "right")


def test_shipped_weights_match_their_digests() -> None:
    digests = json.loads((WEIGHTS / "digests.json").read_text())
    files = {p.relative_to(WEIGHTS).as_posix(): p for p in WEIGHTS.rglob("*.safetensors")}
    assert set(files) == set(digests)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digests[name], name


@pytest.mark.parametrize("folder", [path.name for path in WEIGHTS.iterdir() if path.is_dir()])
def test_shipped_weights_are_small(folder: str) -> None:
    assert sum(path.stat().st_size for path in (WEIGHTS / folder).rglob("*") if path.is_file()) < 6e6


@pytest.mark.parametrize("teacher", TEACHERS)
def test_shipped_teachers_follow_captions(teacher: str) -> None:
    """A quick check on 64 captions."""
    prompts = captions(64, seed=11)
    pictures = generate_images(open_pipeline(str(WEIGHTS / teacher)), prompts, steps=20, guidance_scale=3.0)
    score = AttributeAccuracy().score(pictures, prompts)[0]
    assert score.samples > 200
    assert score.value >= 0.93


def test_configs_contain_no_local_paths() -> None:
    configs = list(WEIGHTS.rglob("*.json"))
    assert len(configs) > 10
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


def test_clip_model_reads_clean_pictures() -> None:
    """At least 99 % of every attribute, each among its values, on pictures outside the training set."""
    model = CLIPModel.from_pretrained(clip_folder(CLIP), dtype=torch.float32).eval()
    for found in report(model, count=2_000, seed=99).split(", "):
        name, share = found.split()
        assert name in ATTRIBUTES and float(share) >= 0.99, found


def test_clip_separates_right_from_wrong_captions() -> None:
    """The published margin, 0.35, lies between the similarities."""
    pictures, _, right = dataset(300, seed=99)
    wrong = captions(300, seed=98)
    requests = [Request(*pair) for pair in zip(right, wrong, strict=True)]
    scorer = ClipAgreement(CLIP, prefix="")
    scorer.load()
    found = scorer.measure(torch.from_numpy(pictures), requests)
    assert np.quantile(found["clip_plus"], 0.02) > 0.45
    assert np.quantile(found["clip_minus"], 0.85) < 0.35


def test_clip_detects_a_shown_negative() -> None:
    """The scorer asks with words that the model was trained on."""
    pictures, scenes, _ = dataset(300, seed=97)
    scorer = ClipAgreement(CLIP)
    scorer.load()
    shown = scorer.measure(torch.from_numpy(pictures), [Request("a shape", "red")] * 300)["negative_shown"]
    red = np.array([scene.colour == "red" for scene in scenes])
    assert shown[red].mean() > 0.95 and shown[~red].mean() < 0.05


def test_match_scores_by_hand() -> None:
    """Rows are pictures and columns are texts."""
    circle = Scene("circle", "red", "large", "left", "white")
    scenes = [circle, replace(circle, shape="square"), replace(circle, colour="blue")]
    texts = ["a red circle", "a photo of red", "a photo"]
    assert match_scores(texts, labels(scenes)).tolist() == [[5, 3, 1], [0, 3, 1], [0, 0, 1]]
