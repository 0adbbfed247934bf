"""Frechet distance, precision and recall against closed forms and hand-made cases."""

import numpy as np
import pytest

from workloads.scorers.distribution import (
    Features,
    Moments,
    frechet,
    frechet_distance,
    frechet_score,
    half_sampled,
    inside,
    precision_recall,
    precision_recall_scores,
)


def gaussian(count: int, features: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    return np.random.default_rng(seed).normal(shift, scale, (count, features))


def test_frechet_of_commuting_covariances() -> None:
    # Covariances with common axes: tr(A + B - 2 (AB)^1/2) is the sum of (sqrt a - sqrt b)^2.
    turn, _ = np.linalg.qr(gaussian(5, 5, seed=1))
    a, b = np.array([4.0, 1.0, 9.0, 0.25, 0.0]), np.array([1.0, 1.0, 16.0, 0.0, 0.0])
    real = Moments(np.zeros(5), turn @ np.diag(a) @ turn.T)
    drawn = Moments(np.array([3.0, 0, 0, 4.0, 0]), turn @ np.diag(b) @ turn.T)
    assert frechet(real, drawn) == pytest.approx(25 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-6)
    assert frechet(drawn, real) == pytest.approx(frechet(real, drawn), abs=1e-6)


def test_frechet_of_any_covariances() -> None:
    # In two dimensions (Dowson and Landau 1982) tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)).
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    trace = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace
    assert frechet(Moments(np.zeros(2), a), Moments(np.zeros(2), b)) == pytest.approx(expected, abs=1e-9)


def test_frechet_of_fewer_pictures_than_features() -> None:
    few = gaussian(10, 40, seed=2)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(few, few + 0.5) == pytest.approx(40 * 0.25, abs=1e-5)
    with pytest.raises(ValueError, match="needs 2 pictures"):
        frechet_distance(few[:1], few)


def test_precision_and_recall_by_hand() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    drawn = np.array([[0.5], [2.5], [5.0], [30.0]])
    # k = 1: real balls reach 1, 1, 1 and 8; drawn ones 2, 2, 2.5 and 25.
    assert inside(drawn, real, 1).tolist() == [True, True, True, False]
    assert inside(real, drawn, 1).tolist() == [True, True, True, True]
    assert precision_recall(real, drawn[:3], 1) == (1.0, 0.75)
    with pytest.raises(ValueError, match="more than k = 3 pictures, got 3"):
        precision_recall(real, drawn[:3], 3)


def test_precision_and_recall_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = gaussian(60, 3, seed=3), gaussian(50, 3, seed=4, shift=0.8, scale=0.7)

    def covered(points: Features, centres: Features) -> float:
        reach = [sorted(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        balls = list(zip(centres, reach, strict=True))
        return float(np.mean([any(np.linalg.norm(p - c) <= r for c, r in balls) for p in points]))

    monkeypatch.setattr("workloads.scorers.distribution.CHUNK", 7)
    expected = (covered(drawn, real), covered(real, drawn))
    assert precision_recall(real, drawn, 3) == pytest.approx(expected)
    assert 0 < expected[1] < expected[0] < 1


def test_halves_give_the_interval_of_a_mean() -> None:
    # Of a mean the interval is known: 1.96 standard deviations over the root of N.
    drawn = gaussian(400, 1, seed=5, shift=3, scale=2)
    score = half_sampled("m", lambda d: float(d.mean()), drawn, "p", halves=2000)
    assert score.value == pytest.approx(drawn.mean()) and score.samples == 400
    assert score.high - score.value == pytest.approx(1.96 * drawn.std() / 20, rel=0.08)
    assert score.value - score.low == pytest.approx(score.high - score.value)


def test_the_interval_of_the_frechet_distance_is_that_of_fresh_sets() -> None:
    real = Moments.of(gaussian(500, 8, seed=6))
    fresh = [frechet(real, Moments.of(gaussian(300, 8, seed, shift=0.4))) for seed in range(100, 300)]
    score = frechet_score("d", real, gaussian(300, 8, seed=7, shift=0.4), "p")
    assert score.high - score.value == pytest.approx(1.96 * np.std(fresh), rel=0.3)
    assert 0 < score.low < np.mean(fresh) < score.high


def test_scores_stay_within_what_the_metric_can_be() -> None:
    real = gaussian(80, 2, seed=8)
    precision, recall = precision_recall_scores(real, real, "p")
    assert (precision.metric, recall.metric) == ("precision", "recall")
    assert [precision.value, recall.value, precision.high, recall.high] == pytest.approx([1.0] * 4)
    assert precision.low < 1
    assert frechet_score("d", Moments.of(real), real, "p").low == 0
    with pytest.raises(ValueError, match="needs 4 drawn pictures or more, got 3"):
        frechet_score("d", Moments.of(real), real[:3], "p")
    with pytest.raises(ValueError, match="needs 8 drawn pictures or more, got 7"):
        precision_recall_scores(real, real[:7], "p")
