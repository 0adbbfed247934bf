"""Fidelity in the miniature world: real pictures are near, others are told apart."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workloads.miniature.world import Scene, dataset
from workloads.scorers.fidelity import JudgeFidelity
from workloads.scorers.score import Score
from workloads.scorers.scorer import Request

COUNT = 300


def world(count: int = COUNT, seed: int = 77) -> tuple[Tensor, list[Scene]]:
    pictures, scenes, _ = dataset(count, seed)
    return torch.from_numpy(pictures), scenes


def scores(pictures: Tensor, batch: int = 1000) -> dict[str, Score]:
    scorer = JudgeFidelity()
    scorer.load()
    requests = [Request("")] * len(pictures)
    parts = [
        scorer.measure(pictures[row : row + batch], requests[row : row + batch])["judge_features"]
        for row in range(0, len(pictures), batch)
    ]
    # A fresh scorer, without weights: all that it needs was measured.
    found = JudgeFidelity().summarise({"judge_features": np.concatenate(parts)}, requests)
    return {score.metric: score for score in found}


def test_pictures_that_are_not_numbers_have_no_score() -> None:
    assert scores(torch.full((COUNT, 3, 16, 16), torch.nan)) == {}


def test_real_pictures_are_near_and_noise_is_far() -> None:
    real = scores(world()[0])
    noise = scores(torch.rand(COUNT, 3, 16, 16) * 2 - 1)
    assert list(real) == ["frechet_distance", "precision", "recall"]
    assert real["precision"].value > 0.85 and real["recall"].value > 0.7
    assert noise["precision"].value < 0.1 and noise["recall"].value < 0.1
    assert noise["frechet_distance"].low > 20 * real["frechet_distance"].high
    assert f"{COUNT} drawn against 1024 rendered" in real["recall"].protocol
    assert "k = 3" in real["recall"].protocol and "64 features" in real["frechet_distance"].protocol


def test_a_missing_shape_costs_recall_and_not_precision() -> None:
    pictures, scenes = world(500)
    kept = torch.tensor([scene.shape != "cross" for scene in scenes])
    # As many of all shapes: recall depends on the number of pictures.
    every, partial = scores(pictures[: int(kept.sum())]), scores(pictures[kept])
    assert partial["recall"].high < every["recall"].low
    assert abs(partial["precision"].value - every["precision"].value) < 0.05
    assert partial["frechet_distance"].low > every["frechet_distance"].high


def test_blurred_pictures_cost_precision() -> None:
    pictures, _ = world()
    blurred = scores(torch.nn.functional.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False))
    assert blurred["precision"].high < scores(pictures)["precision"].low


def test_order_and_batches_do_not_matter() -> None:
    pictures, _ = world(100)
    whole, parts = scores(pictures), scores(pictures.flip(0), batch=7)
    for metric, score in whole.items():
        assert parts[metric].value == pytest.approx(score.value, rel=1e-3)
        # The halves are other pictures now, so the interval moves a little.
        assert parts[metric].high == pytest.approx(score.high, rel=0.15)
