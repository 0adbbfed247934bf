"""Confidence intervals, attribute accuracy, and contact sheets."""

import numpy as np
import pytest
import torch

from workloads.images import contact_sheet
from workloads.miniature.world import caption, dataset
from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.score import share
from workloads.scorers.scorer import Request


def test_wilson_interval() -> None:
    score = share("m", 90, 100, "p")
    assert (score.value, score.samples) == (0.9, 100)
    # Wilson (1927), for 90 of 100, computed by hand.
    assert score.low == pytest.approx(0.8256, abs=1e-4)
    assert score.high == pytest.approx(0.9448, abs=1e-4)
    with pytest.raises(ValueError, match="nothing to score"):
        share("m", 0, 0, "p")


def test_accuracy_of_right_and_wrong_images() -> None:
    import random

    images, scenes, _ = dataset(60, seed=5)
    prompts = [caption(scene, ["shape", "colour"], random.Random(0)) for scene in scenes]
    scorer = AttributeAccuracy()
    right = scorer.score(torch.from_numpy(images), prompts)
    assert right[0].metric == "attribute_accuracy"
    assert right[0].value == 1.0 and right[0].samples == 120
    wrong = scorer.score(torch.from_numpy(images).flip(0), prompts)
    assert wrong[0].value < 0.5


def test_batches_and_summary_without_the_judge() -> None:
    images = torch.from_numpy(dataset(20, seed=6)[0])
    requests = [Request("a red circle"), Request("something on the left")] * 10
    scorer = AttributeAccuracy()
    scorer.load()
    parts = [scorer.measure(images[row : row + 3], requests[row : row + 3]) for row in range(0, 20, 3)]
    measured = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert np.isnan(measured["hit_size"]).all() and np.isnan(measured["hit_shape"]).sum() == 10
    scores = AttributeAccuracy().summarise(measured, requests)
    assert scores == scorer.score(images, [request.prompt for request in requests])
    assert [score.samples for score in scores] == [30, 10, 10, 10]
    with pytest.raises(ValueError, match="no prompt names an attribute"):
        scorer.score(images[:1], ["hello"])


def test_other_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"remove it from evaluate\.scorers"):
        AttributeAccuracy().score(torch.zeros(1, 3, 48, 48), ["a circle"])


def test_contact_sheet_layout() -> None:
    red, blue = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), -1.0)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    sheet = contact_sheet(["first", "second"], {"teacher": red, "student": blue}, "title")
    colours = {pixel for _, pixel in sheet.getcolors(1 << 20) or []}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    assert sheet.getpixel((300, 100)) == (255, 0, 0) and sheet.getpixel((430, 240)) == (0, 0, 255)
