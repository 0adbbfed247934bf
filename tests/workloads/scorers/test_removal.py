"""Removal scores on rendered miniature scenes, whose content is known exactly."""

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from workloads.miniature.world import Scene, random_scene, render
from workloads.scorers.removal import JudgeRemoval
from workloads.scorers.scorer import Request

RED = [replace(random_scene(random.Random(seed)), colour="red", shape="circle") for seed in range(40)]
BLUE = [replace(scene, colour="blue") for scene in RED]


def rendered(scenes: list[Scene]) -> Tensor:
    return torch.stack([torch.from_numpy(render(s, random.Random(i))) for i, s in enumerate(scenes)])


def values(scenes: list[Scene], requests: list[Request]) -> Mapping[str, float]:
    scorer = JudgeRemoval()
    scorer.load()
    measured = scorer.measure(rendered(scenes), requests)
    return {score.metric: score.value for score in JudgeRemoval().summarise(measured, requests)}


def test_rate_of_shown_negatives() -> None:
    requests = [Request("a circle", negative_prompt="a red shape")] * 40
    assert values(RED, requests) == {"negative_rate": 1.0, "prompt_accuracy": 1.0}
    assert values(BLUE, requests) == {"negative_rate": 0.0, "prompt_accuracy": 1.0}
    assert values(RED[:10] + BLUE[10:], requests)["negative_rate"] == 0.25


def test_every_value_of_the_negative_counts() -> None:
    requests = [Request("", negative_prompt="a red square")] * 40
    assert values(RED, requests) == {"negative_rate": 0.0}
    requests = [Request("", negative_prompt="red circle")] * 40
    assert values(RED, requests) == {"negative_rate": 1.0}


def test_requests_without_attributes_are_ignored() -> None:
    requests = [
        Request("a blue circle", "blurry"),
        Request("something", "red"),
        Request("a blue circle", ""),
        Request("a red circle on the left", "a square"),
    ]
    scenes = [replace(scene, position="right") for scene in RED[:4]]
    scorer = JudgeRemoval()
    scorer.load()
    measured = scorer.measure(rendered(scenes), requests)
    np.testing.assert_array_equal(measured["negative_shown"], [np.nan, 1, np.nan, 0])
    np.testing.assert_allclose(measured["asked"], [0.5, np.nan, 0.5, 2 / 3])
    rate, accuracy = scorer.summarise(measured, requests)
    assert (rate.value, rate.samples) == (0.5, 2)
    # Accuracy over attributes, not over images: 1 of 2, 1 of 2 and 2 of 3.
    assert accuracy.value == pytest.approx(4 / 7) and accuracy.samples == 7
    assert scorer.summarise({name: column[:0] for name, column in measured.items()}, []) == []


def test_order_and_batches_change_nothing() -> None:
    scenes = [random_scene(random.Random(seed)) for seed in range(30)]
    requests = [Request("a large circle", "a red shape")] * 30
    scorer = JudgeRemoval()
    scorer.load()
    whole = scorer.measure(rendered(scenes), requests)
    ones = [scorer.measure(image[None], requests[:1]) for image in rendered(scenes).flip(0)]
    for name, column in whole.items():
        np.testing.assert_array_equal(np.concatenate([one[name] for one in ones])[::-1], column)


def test_misuse_errors() -> None:
    with pytest.raises(RuntimeError, match="call load before measure"):
        JudgeRemoval().measure(torch.zeros(1, 3, 16, 16), [Request("")])
    scorer = JudgeRemoval()
    scorer.load()
    with pytest.raises(ValueError, match="scorer 'removal' needs 16 x 16 images"):
        scorer.measure(torch.zeros(1, 3, 64, 64), [Request("")])
