"""Paired regression: distances against derivations by hand, and what its optimum is for Gaussian data."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workloads.objectives.test_pgsb import Bench
from workloads.layers.latent_features import LatentFeatures, feature_distance, load_features
from workloads.miniature import FEATURES, WEIGHTS, features_file
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.columns import NOISE_SEED, TEACHER_LATENTS
from workloads.objectives.latent_distance import Transforms, draw_transforms
from workloads.objectives.pairs import NOISE, noise_of
from workloads.objectives.regression import Regression, RegressionDraws
from workloads.settings.objectives.regression import RegressionSettings

SHAPE = (6, 4, 8, 8)


def latents(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def network(dtype: torch.dtype = torch.float64) -> LatentFeatures:
    return load_features(features_file(FEATURES), 4).to(dtype)


def drawn(batch: int = SHAPE[0], seed: int = 0) -> Transforms:
    return Transforms(draw_transforms(batch, torch.Generator().manual_seed(seed)).matrices.double())


def by_hand(features: LatentFeatures, first: Tensor, second: Tensor) -> Tensor:
    """Compute the distance position by position."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(features(first), features(second), strict=True):
        count, _, height, width = a.shape
        for row in range(count):
            for y in range(height):
                for x in range(width):
                    u, v = a[row, :, y, x], b[row, :, y, x]
                    cosine = (u @ v) / (u.norm() * v.norm())
                    total = total + (2 - 2 * cosine) / (height * width * count)
    return total


def test_feature_distance_by_hand() -> None:
    """|u/|u| - v/|v||^2 = 2 - 2 cos(u, v), averaged over positions, summed over taps; and its gradient."""
    features, x, y = network(), latents(0).requires_grad_(), latents(1)
    distance = feature_distance(features, x, y).mean()
    torch.testing.assert_close(distance, by_hand(features, x, y), rtol=1e-10, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(d, x) for d in (distance, by_hand(features, x, y)))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert feature_distance(features, y, y).abs().max() < 1e-12


def test_features_move_with_latents() -> None:
    """Near latents are nearer than distant ones, by every tap."""
    features, x = network(), latents(0)
    near, far = (feature_distance(features, x, x + scale * latents(1)) for scale in (0.1, 1.0))
    assert (near < far).all()


def moved(matrix: list[list[float]], x: Tensor) -> Tensor:
    return Transforms(torch.tensor([matrix], dtype=x.dtype).expand(len(x), 2, 3))(x)


def test_transforms_by_hand() -> None:
    """Identity, mirror image, quarter turn and a shift by whole latents are exact."""
    x = latents(0)
    torch.testing.assert_close(moved([[1, 0, 0], [0, 1, 0]], x), x)
    torch.testing.assert_close(moved([[-1, 0, 0], [0, 1, 0]], x), x.flip(3))
    torch.testing.assert_close(moved([[0, -1, 0], [1, 0, 0]], x), x.rot90(1, (2, 3)))
    shifted = moved([[1, 0, 0.25], [0, 1, 0]], x)  # a quarter of half the side: one latent
    torch.testing.assert_close(shifted[..., :-1], x[..., 1:])


def test_drawn_transforms() -> None:
    """Of unit size in the mean, differently turned, half of them mirrored; the same seed gives the same."""
    matrices = drawn(4096).matrices
    parts = matrices[:, :, :2]
    size = parts.det().abs().sqrt()
    assert abs(size.log2().mean()) < 0.01 and abs(size.log2().std() - 0.2) < 0.01
    assert abs((parts.det() < 0).double().mean() - 0.5) < 0.03
    shift = matrices[:, :, 2]
    assert shift.abs().max() <= 0.25 and abs(shift.mean()) < 0.01 and shift.std() > 0.1
    angle = torch.atan2(parts[:, 1, 0], parts[:, 0, 0])
    assert abs(angle.cos().mean()) < 0.05 and abs(angle.sin().mean()) < 0.05
    assert torch.equal(drawn(4096).matrices, matrices) and not torch.equal(drawn(4096, 1).matrices, matrices)


def test_both_sides_have_the_same_transform() -> None:
    """Equal latents are at distance 0 under any transform; under two different ones they are not."""
    objective = Regression(bench().backbone, RegressionSettings(), network())
    x = latents(0)
    assert objective.distance(x, x, drawn()) < 1e-12
    assert feature_distance(network(), drawn()(x), drawn(seed=1)(x)).mean() > 0.1


def bench() -> Bench:
    return Bench("epsilon")


@pytest.mark.parametrize("distance", ["mse", "features", "augmented_features"])
def test_loss_of_the_student(distance: Any) -> None:
    """The input is the noise of the column, the target the teacher's latents, in every distance."""
    made = bench()
    shape = made.backbone.latent_shape
    features = None if distance == "mse" else LatentFeatures(shape[0]).double().requires_grad_(False)
    objective = Regression(made.backbone, RegressionSettings(distance=distance), features)
    rows = len(made.prompts)
    seeds, target = torch.arange(5, 5 + rows)[:, None], torch.randn(rows, *shape, dtype=torch.float64)
    stored = {NOISE_SEED: seeds, TEACHER_LATENTS: target.flatten(1)}
    batch = objective.prepare(Batch(made.prompts, columns=stored))
    assert {name: column.shape[1] for name, column in batch.columns.items()} == objective.columns
    draws = RegressionDraws(drawn(rows))
    (update,) = objective.updates({STUDENT: made.student}, batch, draws, 1)
    noise = noise_of(seeds.flatten(), shape)
    assert torch.equal(batch.columns[NOISE].view(-1, *shape), noise)
    sampled = made.backbone.one_step(made.student, noise.double(), made.prompts)
    if features is None:
        expected = (sampled - target).square().mean()
    elif distance == "features":
        expected = by_hand(features, sampled, target)
    else:
        expected = by_hand(features, draws.transforms(sampled), draws.transforms(target))
    torch.testing.assert_close(update.loss, expected, rtol=1e-6, atol=1e-9)
    own = list(made.student.parameters())
    pairs = zip(*(torch.autograd.grad(d, own) for d in (update.loss, expected)), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-8) for a, b in pairs)
    error = (sampled - target).square().mean()
    torch.testing.assert_close(update.metrics["mean_square_error"], error.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("augmented", [False, True])
def test_features_determine_the_latents(augmented: bool) -> None:
    """Latents that are fitted from noise become the target.

    The paper's network, with pooling, needs the transforms for that; this one does not.
    """
    features, target = network(torch.float32), picture()
    fitted = latents(1, torch.float32)[:1].clone().requires_grad_()
    optimizer = torch.optim.Adam([fitted], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        both = (fitted, target)
        if augmented:
            transforms = draw_transforms(1, generator)
            both = (transforms(fitted), transforms(target))
        optimizer.zero_grad()
        feature_distance(features, *both).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (fitted - target).square().mean() < 1e-3 * target.square().mean()


def picture() -> Tensor:
    """The latents of a rendered picture, (1, 4, 8, 8)."""
    from workloads.miniature.world import dataset
    from workloads.students.student import load_autoencoder

    vae = load_autoencoder(str(WEIGHTS / "pixart"))
    mean: Tensor = vae.encode(torch.from_numpy(dataset(1, 3)[0])).latent_dist.mean
    scaled: Tensor = mean.detach() * vae.config.scaling_factor
    return scaled


def test_unreadable_features_are_one_line(tmp_path: Any) -> None:
    for path in (tmp_path / "none.safetensors", WEIGHTS / "judge.safetensors"):
        with pytest.raises(ValueError, match="not the weights of LatentFeatures for 4 channels") as caught:
            load_features(path, 4)
        assert "\n" not in str(caught.value)
