"""FID with a tiny scripted network in place of Inception."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from workloads.scorers import inception
from workloads.scorers.distribution import Moments, frechet_distance
from workloads.scorers.inception import InceptionFid, write_reference
from workloads.scorers.score import Score
from workloads.scorers.scorer import Request

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
COUNT = 40


class Tiny(nn.Module):
    """Interface of the real file: `layers` takes images (B, 3, 299, 299), about in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 40, stride=40), nn.Tanh(), nn.AvgPool2d(3))

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        return torch.zeros(len(images), 4)  # must not be called: the real one resizes its input


def images(count: int, seed: int, offset: float = 0.0) -> Tensor:
    """Return coarse random images (N, 3, 48, 48), brighter by `offset`."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return nn.functional.interpolate((coarse + offset).clamp(-1, 1), size=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with a tiny network, whose digest is accepted as the known one, and a reference."""
    folder = tmp_path_factory.mktemp("fid")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Tiny()), str(folder / "net.pt"))
    (folder / "pictures").mkdir()
    for index, picture in enumerate(images(COUNT, seed=1)):
        pixels = ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "pictures" / f"{index:03}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            inception, "WEIGHTS_SHA256", hashlib.sha256((folder / "net.pt").read_bytes()).hexdigest()
        )
        assert write_reference(folder / "net.pt", folder / "pictures", folder / "real.npz") == COUNT
        yield folder


def opened(folder: Path, reference: str = "real.npz") -> InceptionFid:
    scorer = InceptionFid(str(folder / "net.pt"), str(folder / reference))
    scorer.load()
    return scorer


def scores(folder: Path, pictures: Tensor, reference: str = "real.npz") -> dict[str, Score]:
    requests = [Request("")] * len(pictures)
    scorer = opened(folder, reference)
    measured = scorer.measure(pictures, requests)
    fresh = InceptionFid("no weights needed", str(folder / reference))
    return {score.metric: score for score in fresh.summarise(measured, requests)}


def test_equal_and_different_distributions(folder: Path) -> None:
    same, far = scores(folder, images(COUNT, seed=1)), scores(folder, images(COUNT, seed=2, offset=0.8))
    assert list(same) == ["fid", "precision", "recall"]
    assert same["fid"].value < 1e-6 and same["precision"].value == same["recall"].value == 1
    assert far["fid"].low > 10 * scores(folder, images(COUNT, seed=2))["fid"].value
    assert far["precision"].value < 0.5
    assert f"{COUNT} drawn against {COUNT} of real.npz" in far["fid"].protocol
    assert "fewer than 10000 pictures" in far["fid"].protocol and str(folder) not in far["fid"].protocol


def test_features_use_pillows_bicubic_filter(folder: Path) -> None:
    # At hard edges between black and white the filter overshoots, and the result is clipped.
    picture = images(1, seed=3).sign()
    pixels = ((picture[0] + 1) * 127.5).round()
    # When it enlarges, Pillow's filter is that of Keys 1981 with a = -0.5, as torch's with antialiasing.
    large = nn.functional.interpolate(pixels[None], size=(299, 299), mode="bicubic", antialias=True)
    expected = Tiny().layers((large.clamp(0, 255) - 128) / 128).flatten(1).detach().numpy()
    measured = opened(folder).measure(picture, [Request("")])["inception_features"]
    np.testing.assert_allclose(measured, expected, atol=1e-4)


def test_moments_alone_give_the_fid(folder: Path) -> None:
    real = np.load(folder / "real.npz")["features"].astype(np.float64)
    np.savez(folder / "stats.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    drawn = images(COUNT, seed=4, offset=0.3)
    found = scores(folder, drawn, "stats.npz")
    features = opened(folder).measure(drawn, [Request("")] * COUNT)["inception_features"]
    assert list(found) == ["fid"]
    expected = frechet_distance(*map(Moments.from_features, (real, features.astype(np.float64))))
    assert found["fid"].value == pytest.approx(expected, rel=1e-4)


def test_order_and_batches_change_nothing(folder: Path) -> None:
    scorer, pictures = opened(folder), images(6, seed=5)
    whole = scorer.measure(pictures, [Request("")] * 6)["inception_features"]
    ones = [scorer.measure(picture[None], [Request("")]) for picture in pictures.flip(0)]
    parts = np.concatenate([one["inception_features"] for one in ones])[::-1]
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_reference_of_another_network_is_refused(folder: Path) -> None:
    with np.load(folder / "real.npz") as real:
        np.savez(folder / "other.npz", **{**real, "network": "0123"})
    with pytest.raises(ValueError, match=r"other\.npz was made with network 0123, not"):
        opened(folder, "other.npz")


def test_images_are_cropped_as_the_reference(folder: Path) -> None:
    write_reference(folder / "net.pt", folder / "pictures", folder / "cropped.npz", side=32)
    cropped = opened(folder, "cropped.npz").measure(images(2, seed=1), [Request("")] * 2)
    fid = scores(folder, images(COUNT, seed=1), "cropped.npz")["fid"]
    assert fid.value < 1e-6 and "middle square to 32 px by Lanczos" in fid.protocol
    plain = np.load(folder / "real.npz")["features"][:2]
    np.testing.assert_allclose(
        cropped["inception_features"], np.load(folder / "cropped.npz")["features"][:2], atol=1e-5
    )
    assert np.abs(cropped["inception_features"] - plain).max() > 1e-3


def test_missing_files_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*gone\.pt; fetch https://nvlabs"):
        InceptionFid(str(tmp_path / "gone.pt"), str(folder / "real.npz")).load()
    with pytest.raises(ValueError, match=r"none\.npz cannot be read"):
        opened(folder, "none.npz")
    with pytest.raises(ValueError, match="contains no images"):
        write_reference(folder / "net.pt", tmp_path, tmp_path / "out.npz")
