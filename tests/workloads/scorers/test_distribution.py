"""Frechet distance, precision and recall against closed forms and small cases computed by hand."""

import numpy as np
import pytest

from workloads.scorers.distribution import (
    Features,
    Moments,
    frechet_distance,
    frechet_score,
    half_sample_score,
    in_manifold,
    precision_recall_scores,
)


def gaussian(count: int, features: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(shift, scale, (count, features))


def test_frechet_with_commuting_covariances() -> None:
    # For covariances with common axes tr(A + B - 2 (AB)^1/2) is the sum of (sqrt a - sqrt b)^2.
    turn, _ = np.linalg.qr(gaussian(5, 5, seed=1))
    a, b = np.array([4.0, 1.0, 9.0, 0.25, 0.0]), np.array([1.0, 1.0, 16.0, 0.0, 0.0])
    real = Moments(np.zeros(5), turn @ np.diag(a) @ turn.T)
    generated = Moments(np.array([3.0, 0, 0, 4.0, 0]), turn @ np.diag(b) @ turn.T)
    assert frechet_distance(real, generated) == pytest.approx(
        25 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-6
    )
    assert frechet_distance(generated, real) == pytest.approx(frechet_distance(real, generated), abs=1e-6)


def test_frechet_in_two_dimensions() -> None:
    # In two dimensions (Dowson and Landau 1982) tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)).
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    trace = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace
    assert frechet_distance(Moments(np.zeros(2), a), Moments(np.zeros(2), b)) == pytest.approx(
        expected, abs=1e-9
    )


def test_frechet_with_fewer_images_than_features() -> None:
    few = gaussian(10, 40, seed=2)
    moments, shifted = Moments.from_features(few), Moments.from_features(few + 0.5)
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(moments, shifted) == pytest.approx(40 * 0.25, abs=1e-5)
    with pytest.raises(ValueError, match="needs at least 2 images, got 1"):
        Moments.from_features(few[:1])


def test_precision_and_recall_by_hand() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    generated = np.array([[0.5], [2.5], [5.0], [30.0]])
    # For k = 1 the radii are 1, 1, 1 and 8 around real points, 2, 2, 2.5 and 25 around generated ones.
    assert in_manifold(generated, real, 1).tolist() == [True, True, True, False]
    assert in_manifold(real, generated, 1).tolist() == [True, True, True, True]
    assert in_manifold(real, generated[:3], 1).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="more than k = 3 images, got 3"):
        in_manifold(real, generated[:3], 3)


def test_precision_and_recall_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = gaussian(60, 3, seed=3), gaussian(50, 3, seed=4, shift=0.8, scale=0.7)

    def covered(points: Features, centres: Features) -> float:
        reach = [sorted(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        balls = list(zip(centres, reach, strict=True))
        return float(np.mean([any(np.linalg.norm(p - c) <= r for c, r in balls) for p in points]))

    monkeypatch.setattr("workloads.scorers.distribution.CHUNK", 7)
    expected = (covered(generated, real), covered(real, generated))
    found = precision_recall_scores(real, generated, "p", k=3, halves=2)
    assert [score.value for score in found] == pytest.approx(expected)
    assert 0 < expected[1] < expected[0] < 1


def test_half_sample_interval_of_a_mean() -> None:
    # The interval of a mean is known: 1.96 standard deviations over the square root of N.
    generated = gaussian(400, 1, seed=5, shift=3, scale=2)
    score = half_sample_score("m", lambda d: float(d.mean()), generated, "p", halves=2000)
    assert score.value == pytest.approx(generated.mean()) and score.samples == 400
    assert score.high - score.value == pytest.approx(1.96 * generated.std() / 20, rel=0.08)
    assert score.value - score.low == pytest.approx(score.high - score.value)


def test_half_sample_interval_of_the_frechet_distance() -> None:
    real = Moments.from_features(gaussian(500, 8, seed=6))
    fresh = [
        frechet_distance(real, Moments.from_features(gaussian(300, 8, seed, shift=0.4)))
        for seed in range(100, 300)
    ]
    score = frechet_score("d", real, gaussian(300, 8, seed=7, shift=0.4), "p")
    assert score.high - score.value == pytest.approx(1.96 * np.std(fresh), rel=0.3)
    assert 0 < score.low < np.mean(fresh) < score.high


def test_intervals_stay_in_the_range_of_the_metric() -> None:
    real = gaussian(80, 2, seed=8)
    precision, recall = precision_recall_scores(real, real, "p")
    assert (precision.metric, recall.metric) == ("precision", "recall")
    assert [precision.value, recall.value, precision.high, recall.high] == pytest.approx([1.0] * 4)
    assert precision.low < 1
    assert frechet_score("d", Moments.from_features(real), real, "p").low == 0
    with pytest.raises(ValueError, match="needs at least 4 generated images, got 3"):
        frechet_score("d", Moments.from_features(real), real[:3], "p")
    with pytest.raises(ValueError, match="needs at least 8 generated images, got 7"):
        precision_recall_scores(real, real[:7], "p")
