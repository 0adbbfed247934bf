"""Fidelity scores in the miniature world: real images score well, altered ones worse."""

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
    images, scenes, _ = dataset(count, seed)
    return torch.from_numpy(images), scenes


def scores(images: Tensor, batch: int = 1000) -> dict[str, Score]:
    scorer = JudgeFidelity()
    scorer.load()
    requests = [Request("")] * len(images)
    parts = [
        scorer.measure(images[row : row + batch], requests[row : row + batch])["judge_features"]
        for row in range(0, len(images), batch)
    ]
    # A new scorer without weights, as in another process.
    found = JudgeFidelity().summarise({"judge_features": np.concatenate(parts)}, requests)
    return {score.metric: score for score in found}


def test_nan_images_have_no_score() -> None:
    assert scores(torch.full((COUNT, 3, 16, 16), torch.nan)) == {}


def test_real_images_and_noise() -> None:
    real = scores(world()[0])
    noise = scores(torch.rand(COUNT, 3, 16, 16) * 2 - 1)
    assert list(real) == ["frechet_distance", "precision", "recall"]
    assert real["precision"].value > 0.85 and real["recall"].value > 0.7
    assert noise["precision"].value < 0.1 and noise["recall"].value < 0.1
    assert noise["frechet_distance"].low > 20 * real["frechet_distance"].high
    assert f"{COUNT} drawn against 1024 rendered" in real["recall"].protocol
    assert "k = 3" in real["recall"].protocol and "64 features" in real["frechet_distance"].protocol


def test_missing_shape_lowers_recall_alone() -> None:
    images, scenes = world(500)
    kept = torch.tensor([scene.shape != "cross" for scene in scenes])
    # The same number of images, because recall depends on it.
    every, partial = scores(images[: int(kept.sum())]), scores(images[kept])
    assert partial["recall"].high < every["recall"].low
    assert abs(partial["precision"].value - every["precision"].value) < 0.05
    assert partial["frechet_distance"].low > every["frechet_distance"].high


def test_blur_lowers_precision() -> None:
    images, _ = world()
    blurred = scores(torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False))
    assert blurred["precision"].high < scores(images)["precision"].low


def test_order_and_batches_hardly_matter() -> None:
    images, _ = world(100)
    whole, parts = scores(images), scores(images.flip(0), batch=7)
    for metric, score in whole.items():
        assert parts[metric].value == pytest.approx(score.value, rel=1e-3)
        # The random halves contain other images now, so the interval changes a little.
        assert parts[metric].high == pytest.approx(score.high, rel=0.15)
