"""FID, precision and recall on the Inception features that the field compares by.

The network is the TorchScript file of StyleGAN2-ADA, and pictures reach it as in clean-fid's mode
"clean" (Parmar et al. 2022), from which FIDs differ by resizing alone. Reference pictures are read
once, into a file of features:

    python -m workloads.scorers.inception --weights inception-2015-12-05.pt \\
        --pictures coco/val2014 --side 256 --out coco.npz

Shapes: B batch, N pictures, P pixels a side, F = 2048 features.
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
from workloads.scorers.scorer import Measured, Request, Scorer

WEIGHTS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of that file, as k-diffusion and others note it. TorchScript is a program: no other one is run."""
INPUT = 299
NEIGHBOURS = 3
BALLS = 10_000
"""Pictures a side for precision and recall: their cost grows with the square."""
ENOUGH = 10_000
BATCH = 32
HALVES = 25
NOTED = 12
"""Digits of the network's digest that a reference notes."""


class InceptionFid(Scorer):
    """FID against a reference, and precision and recall where its features are at hand."""

    name: ClassVar[str] = "fid"

    def __init__(self, weights: str, reference: str) -> None:
        """Takes note of the files.

        Args:
            weights: the TorchScript file of the network.
            reference: .npz with `features` (N, F), as this module writes it, or with `mu` (F,)
                and `sigma` (F, F), as clean-fid does; the latter gives the FID alone. A `side` in it
                has pictures brought to that size first, by the middle square and Lanczos, as its own.
        """
        self._weights, self._reference, self._side = Path(weights), Path(reference), 0
        self._network: Any = None

    def load(self, device: str = "cpu") -> None:
        network, reference = _digest(self._weights)[:NOTED], _open(self._reference)
        made_with = str(reference.get("network", network))
        if made_with != network:
            raise ValueError(
                f"scorer 'fid': {self._reference} was made with network {made_with}, not {network}; "
                "make it again"
            )
        self._side = _side(reference)
        self._network = _network(self._weights, device)

    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """`inception_features` (B, F)."""
        if self._network is None:
            raise RuntimeError("scorer 'fid': call load before measure")
        images = [to_image(picture) for picture in pictures]
        return {"inception_features": _features(self._network, images, self._side)}

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """`fid` and, where the reference has features, `precision` and `recall`.

        Raises:
            ValueError: the reference cannot be read, or there are fewer than 8 pictures.
        """
        drawn, reference = measured["inception_features"], _open(self._reference)
        real = reference.get("features")
        moments = Moments(reference["mu"], reference["sigma"]) if real is None else Moments.of(_f64(real))
        side = _side(reference)
        fid = frechet_score("fid", moments, _f64(drawn), self._protocol(side, drawn, real), halves=HALVES)
        if real is None:
            return [fid]
        balls = _some(drawn), _some(real)
        about = f"k = {NEIGHBOURS} nearest neighbours, {self._protocol(side, *balls)}"
        scored = precision_recall_scores(balls[1], balls[0], about, k=NEIGHBOURS, halves=HALVES)
        return [fid, *scored]

    def _protocol(self, side: int, drawn: npt.NDArray[Any], real: npt.NDArray[Any] | None) -> str:
        square = f"middle square to {side} px by Lanczos, " if side else ""
        against = self._reference.name if real is None else f"{len(real)} of {self._reference.name}"
        few = "" if len(drawn) >= ENOUGH else f"; biased upward: fewer than {ENOUGH} pictures"
        return (
            f"Inception 2015-12-05, {square}clean-fid's resizing, {len(drawn)} drawn against {against}{few}"
        )


def write_reference(weights: Path, pictures: Path, out: Path, side: int = 0, device: str = "cpu") -> int:
    """Reads every picture in a folder into a file of features; returns how many.

    Raises:
        ValueError: there are no pictures, or the weights cannot be read.
    """
    endings = {".png", ".jpg", ".jpeg", ".webp"}
    paths = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in endings)
    if not paths:
        raise ValueError(f"{pictures}: no pictures there ({', '.join(sorted(endings))})")
    network = _network(weights, device)
    batches = (paths[row : row + BATCH] for row in range(0, len(paths), BATCH))
    parts = [_features(network, map(Image.open, batch), side) for batch in batches]
    np.savez(out, features=np.concatenate(parts), side=str(side), network=_digest(weights)[:NOTED])
    return len(paths)


def _network(weights: Path, device: str) -> Any:
    if _digest(weights) != SHA256:
        raise ValueError(
            f"scorer 'fid': {weights} is not {WEIGHTS}, by its SHA-256, and only that one is run: "
            "a TorchScript file is a program"
        )
    return torch.jit.load(str(weights), map_location=device).eval().layers  # type: ignore[no-untyped-call]


@torch.no_grad()
def _features(network: Any, images: Iterable[Image.Image], side: int) -> npt.NDArray[np.float32]:
    """(B, F) of B pictures."""
    pixels = torch.from_numpy(np.stack([_prepared(image.convert("RGB"), side) for image in images]))
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    # The network's own forward would resize, and that is what clean-fid avoids.
    found = network((pixels.to(device) - 128) / 128).flatten(1)
    features: npt.NDArray[np.float32] = found.float().cpu().numpy()
    return features


def _prepared(image: Image.Image, side: int) -> npt.NDArray[np.float32]:
    """(3, 299, 299) in [0, 255]: by Pillow's bicubic filter in floating point, without rounding."""
    if side:
        image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    channels = [Image.fromarray(np.asarray(c, dtype=np.float32)) for c in image.split()]
    resized = [np.asarray(c.resize((INPUT, INPUT), Image.Resampling.BICUBIC)) for c in channels]
    return np.stack(resized).clip(0, 255)


def _open(reference: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(reference, allow_pickle=False) as stored:
            found = dict(stored)
    except (OSError, ValueError, TypeError, BadZipFile) as error:
        raise ValueError(
            f"scorer 'fid': reference {reference} cannot be read ({describe(error)}); "
            "make it with python -m workloads.scorers.inception"
        ) from None
    if "features" not in found and not {"mu", "sigma"} <= set(found):
        raise ValueError(f"scorer 'fid': {reference} holds neither `features` nor `mu` and `sigma`")
    return found


def _side(reference: dict[str, npt.NDArray[Any]]) -> int:
    """The size to which the pictures of a reference were brought; 0 if they were left as they are.

    Raises:
        ValueError: it notes no size.
    """
    noted = str(reference.get("side", 0))
    if not noted.isdecimal():
        raise ValueError(f"scorer 'fid': its reference has the side {noted!r}, which is no size in pixels")
    return int(noted)


def _digest(weights: Path) -> str:
    if not weights.is_file():
        raise ValueError(f"scorer 'fid': no file {weights}; fetch {WEIGHTS}")
    with weights.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _some(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """At most `BALLS` of (N, F), whichever order they came in."""
    picked = np.random.default_rng(0).permutation(len(features))[:BALLS]
    return _f64(features[picked])


def _f64(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return features.astype(np.float64)


def main() -> None:
    """Writes the features of a folder of reference pictures."""
    parser = argparse.ArgumentParser(description="Features of reference pictures, for the scorer 'fid'.")
    parser.add_argument("--weights", type=Path, required=True, help=f"file from {WEIGHTS}")
    parser.add_argument("--pictures", type=Path, required=True, help="folder, searched with its subfolders")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--side", type=int, default=0, help="middle square to this size first; 0: leave it")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    print(f"{write_reference(a.weights, a.pictures, a.out, a.side, a.device)} pictures in {a.out}")


if __name__ == "__main__":
    main()
