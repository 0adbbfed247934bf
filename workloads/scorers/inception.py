"""FID, precision and recall on Inception features, comparable with published values.

The network is the TorchScript file of StyleGAN2-ADA. Images are resized as in clean-fid's mode "clean"
(Parmar et al. 2022), because FIDs differ by the resizing alone. The features of reference images are
computed once and stored in a file:

    python -m workloads.scorers.inception --weights inception-2015-12-05.pt \\
        --pictures coco/val2014 --side 256 --out coco.npz

Shapes: B batch, N images, P image height and width in pixels, F = 2048 features.
"""

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from workloads.backbones.load_errors import describe
from workloads.images import to_image
from workloads.scorers.distribution import Moments, frechet_score, precision_recall_scores
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measurements, Request, Scorer

WEIGHTS_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
WEIGHTS_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""SHA-256 of that file, as k-diffusion and others record it. No other file is run, because TorchScript
is a program."""
INPUT_SIZE = 299
"""Height and width of the network's input in pixels."""
NEIGHBOURS = 3
"""k of precision and recall, as in Kynkaanniemi et al. 2019."""
MOST_FOR_MANIFOLDS = 10_000
"""Largest number of images per side of precision and recall, whose cost grows with its square."""
ENOUGH_FOR_FID = 10_000
"""Number of generated images below which the protocol notes that the FID is biased upward."""
BATCH = 32
"""Reference images per forward pass."""
HALVES = 25
"""Random halves for the intervals of the FID and the recall."""
DIGEST_LENGTH = 12
"""Hexadecimal digits of the network's SHA-256 that a reference file stores."""
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


class InceptionFid(Scorer):
    """FID against a reference file; also precision and recall if the file holds features."""

    name: ClassVar[str] = "fid"

    def __init__(self, weights: str, reference: str) -> None:
        """Store the paths.

        Args:
            weights: the TorchScript file of the network.
            reference: .npz file with `features` (N, F), as this module writes it, or with `mu` (F,) and
                `sigma` (F, F), as clean-fid writes it, which gives the FID alone. If it holds `side`,
                generated images are cropped and resized to that size first, as the reference images were.
        """
        self._weights, self._reference, self._side = Path(weights), Path(reference), 0
        self._network: Any = None

    def load(self, device: str = "cpu") -> None:
        network, reference = _weights_digest(self._weights)[:DIGEST_LENGTH], _read_reference(self._reference)
        made_with = str(reference.get("network", network))
        if made_with != network:
            raise ValueError(
                f"scorer 'fid': {self._reference} was made with network {made_with}, not {network}; "
                "make it again"
            )
        self._side = _reference_side(reference)
        self._network = _load_network(self._weights, device)

    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `inception_features` (B, F)."""
        if self._network is None:
            raise RuntimeError("scorer 'fid': call load before measure")
        return {"inception_features": _features(self._network, map(to_image, images), self._side)}

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return `fid` and, if the reference holds features, `precision` and `recall`.

        Raises:
            ValueError: the reference cannot be read, or there are fewer than 8 images.
        """
        generated, reference = measured["inception_features"], _read_reference(self._reference)
        side, real = _reference_side(reference), reference.get("features")
        if real is None:
            moments = Moments(reference["mu"], reference["sigma"])
        else:
            moments = Moments.from_features(_float64(real))
        protocol = self._protocol(side, generated, real)
        fid = frechet_score("fid", moments, _float64(generated), protocol, halves=HALVES)
        if real is None:
            return [fid]
        ours, theirs = _subsample(generated), _subsample(real)
        protocol = f"k = {NEIGHBOURS} nearest neighbours, {self._protocol(side, ours, theirs)}"
        return [fid, *precision_recall_scores(theirs, ours, protocol, k=NEIGHBOURS, halves=HALVES)]

    def _protocol(self, side: int, generated: npt.NDArray[Any], real: npt.NDArray[Any] | None) -> str:
        square = f"middle square to {side} px by Lanczos, " if side else ""
        against = self._reference.name if real is None else f"{len(real)} of {self._reference.name}"
        protocol = (
            f"Inception 2015-12-05, {square}clean-fid's resizing, {len(generated)} drawn against {against}"
        )
        if len(generated) < ENOUGH_FOR_FID:
            protocol += f"; biased upward: fewer than {ENOUGH_FOR_FID} pictures"
        return protocol


def write_reference(weights: Path, images: Path, out: Path, side: int = 0, device: str = "cpu") -> int:
    """Write the features of every image in a folder and its subfolders; return their number.

    Args:
        weights: the TorchScript file of the network.
        images: the folder.
        out: the .npz file to write.
        side: size in pixels to which images are cropped and resized first; 0 leaves them as they are.

    Raises:
        ValueError: there are no images, or the weights cannot be read.
    """
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        raise ValueError(f"{images}: contains no images ({', '.join(sorted(ENDINGS))})")
    network = _load_network(weights, device)
    batches = (paths[row : row + BATCH] for row in range(0, len(paths), BATCH))
    parts = [_features(network, map(Image.open, batch), side) for batch in batches]
    digest = _weights_digest(weights)[:DIGEST_LENGTH]
    np.savez(out, features=np.concatenate(parts), side=str(side), network=digest)
    return len(paths)


def _load_network(weights: Path, device: str) -> Any:
    if _weights_digest(weights) != WEIGHTS_SHA256:
        raise ValueError(
            f"scorer 'fid': {weights} is not {WEIGHTS_URL}, by its SHA-256; fetch that file, no other is "
            "run, because TorchScript is a program"
        )
    return torch.jit.load(str(weights), map_location=device).eval().layers  # type: ignore[no-untyped-call]


@torch.no_grad()
def _features(network: Any, images: Iterable[Image.Image], side: int) -> npt.NDArray[np.float32]:
    """Return the features (B, F) of B images."""
    pixels = torch.from_numpy(np.stack([_preprocess(image.convert("RGB"), side) for image in images]))
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    # `network` is the `layers` of the file's module, whose own forward would resize the images once more.
    found = network((pixels.to(device) - 128) / 128).flatten(1)
    features: npt.NDArray[np.float32] = found.float().cpu().numpy()
    return features


def _preprocess(image: Image.Image, side: int) -> npt.NDArray[np.float32]:
    """Return (3, 299, 299) in [0, 255], resized with Pillow's bicubic filter in floats, without rounding.

    If `side` is not 0, the middle square of the image is first resized to it with the Lanczos filter.
    """
    if side:
        image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    channels = [Image.fromarray(np.asarray(c, dtype=np.float32)) for c in image.split()]
    size = (INPUT_SIZE, INPUT_SIZE)
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels]).clip(0, 255)


def _read_reference(reference: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(reference, allow_pickle=False) as stored:
            found = dict(stored)
    except (OSError, ValueError, TypeError, BadZipFile) as error:
        raise ValueError(
            f"scorer 'fid': reference {reference} cannot be read ({describe(error)}); "
            "make it with python -m workloads.scorers.inception"
        ) from None
    if "features" not in found and not {"mu", "sigma"} <= set(found):
        raise ValueError(
            f"scorer 'fid': reference {reference} contains neither `features` nor `mu` and `sigma`; "
            "make it with python -m workloads.scorers.inception"
        )
    return found


def _reference_side(reference: dict[str, npt.NDArray[Any]]) -> int:
    """Return the size in pixels of the reference images; 0 if they were not cropped and resized.

    Raises:
        ValueError: the stored `side` is not a number.
    """
    side = str(reference.get("side", 0))
    if not side.isdecimal():
        raise ValueError(f"scorer 'fid': the reference has side {side!r}, which is not a size in pixels")
    return int(side)


def _weights_digest(weights: Path) -> str:
    """Return the SHA-256 of the network's file.

    Raises:
        ValueError: the file does not exist.
    """
    if not weights.is_file():
        raise ValueError(f"scorer 'fid': no file {weights}; fetch {WEIGHTS_URL}")
    with weights.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _subsample(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return at most `MOST_FOR_MANIFOLDS` random rows of features (N, F); the choice is always the same."""
    picked = np.random.default_rng(0).permutation(len(features))[:MOST_FOR_MANIFOLDS]
    return _float64(features[picked])


def _float64(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return features.astype(np.float64)


def main() -> None:
    """Write the features of a folder of reference images."""
    parser = argparse.ArgumentParser(description="Features of reference images, for the scorer 'fid'.")
    parser.add_argument("--weights", type=Path, required=True, help=f"file from {WEIGHTS_URL}")
    parser.add_argument("--pictures", type=Path, required=True, help="folder with images, also in subfolders")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument(
        "--side", type=int, default=0, help="crop and resize images to this size in pixels first; 0: do not"
    )
    parser.add_argument("--device", default="cpu", help="device of the network (cpu)")
    arguments = parser.parse_args()
    count = write_reference(
        arguments.weights, arguments.pictures, arguments.out, arguments.side, arguments.device
    )
    print(f"{count} images in {arguments.out}")


if __name__ == "__main__":
    main()
