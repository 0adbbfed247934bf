"""Architecture, preprocessing and tokenizer of HPSv2, from the `hpsv2` package (1.2.0).

The published package cannot be imported as it is: its wheel lacks the vocabulary file, and it imports
`turtle`, which needs Tk. `open_clip` works around both during the import; the package is not changed.

Shapes: B batch, P image height and width in pixels, S those of the model's input, T texts.
"""

import gzip
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from workloads.backbones.load_errors import describe

REPOSITORY = "xswu/HPSv2"
CHECKPOINTS = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
ARCHITECTURE = "ViT-H-14"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@dataclass(frozen=True)
class PreferenceModel:
    """A loaded model with its preprocessing and tokenizer."""

    model: nn.Module
    transforms: Sequence[Any]
    """The package's transforms from (3, P, P) in [0, 1] to the model's input (3, S, S), in order."""
    tokenize: Any
    """Function from T prompts to tokens (T, 77)."""
    device: str

    @torch.no_grad()
    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the cosines (B,) of images (B, 3, P, P) in [-1, 1] with their B prompts.

        It is one forward pass, in which each distinct prompt is encoded once.
        """
        distinct = list(dict.fromkeys(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        pixels = torch.stack([self._preprocess(image) for image in images.to(self.device)])
        tokens = self.tokenize(distinct).to(self.device)
        with torch.autocast("cuda", enabled=self.device.startswith("cuda")):
            features = self.model(pixels, tokens)
        embedded, texts = features["image_features"].float(), features["text_features"].float()
        # Outside of autocast: in half precision the product would be rounded to steps of 2e-4.
        scores: Tensor = torch.linalg.vecdot(embedded, texts[rows])
        return scores.cpu()

    def _preprocess(self, image: Tensor) -> Tensor:
        """Map (3, P, P) in [-1, 1] to (3, S, S): round to 8 bits, as an image file would, then transform."""
        image = ((image.float().clamp(-1, 1) + 1) * 127.5).round() / 255
        for transform in self.transforms:
            image = transform(image)
        return image


def open_clip() -> ModuleType:
    """Import the package's own copy of open_clip.

    Raises:
        ValueError: open_clip_torch, which holds the vocabulary, is not installed.
    """
    with _turtle_importable(), _vocabulary_from_open_clip():
        return import_module("hpsv2.src.open_clip")


def build(architecture: str, device: str) -> PreferenceModel:
    """Build the architecture with random weights, as `hpsv2.img_score` does; it downloads nothing."""
    package = open_clip()
    settings: dict[str, Any] = {"light_augmentation": True, "aug_cfg": {}, "output_dict": True}
    model, _, preprocess = package.create_model_and_transforms(
        architecture, None, precision="amp", device=device, **settings
    )
    # The first two transforms convert a PIL image to (3, P, P) in [0, 1].
    transforms = preprocess.transforms[2:]
    return PreferenceModel(model.eval(), transforms, package.get_tokenizer(architecture), device)


def read_weights(loaded: PreferenceModel, path: Path) -> None:
    """Load a published checkpoint into the model.

    Raises:
        ValueError: the file does not hold weights of this architecture.
    """
    try:
        loaded.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    # Other files fail in many ways, an IndexError of torch's reader among them.
    except Exception as error:
        raise ValueError(
            f"scorer 'hpsv2': {path} does not hold weights of {REPOSITORY}; fetch it again: {describe(error)}"
        ) from None


@contextmanager
def _vocabulary_from_open_clip() -> Iterator[None]:
    """Redirect the package's read of its vocabulary file to the copy in open_clip_torch.

    The wheel and the sdist of hpsv2 1.2.0 lack the file; the two copies are equal byte for byte. The
    package opens it with `gzip.open` while it is imported and takes no other path, so `gzip.open` is
    patched for the time of the import.
    """
    installed = find_spec("open_clip")
    if installed is None or installed.origin is None:
        raise ValueError(
            "scorer 'hpsv2': open_clip_torch, which holds its vocabulary, is not installed; run "
            "`pip install open_clip_torch==3.3.0`"
        )
    vocabulary, gzip_open = Path(installed.origin).with_name(VOCABULARY), gzip.open

    def open_redirected(path: Any, *args: Any, **kwargs: Any) -> Any:
        return gzip_open(vocabulary if str(path).endswith(VOCABULARY) else path, *args, **kwargs)

    with patch("gzip.open", open_redirected):
        yield


@contextmanager
def _turtle_importable() -> Iterator[None]:
    """Provide an empty `turtle` where Python comes without Tk, as in the project's container image.

    `hpsv2.src.open_clip.factory` (1.2.0) imports `turtle.forward` and never uses it.
    """
    try:
        import turtle  # noqa: F401
    except ImportError:
        sys.modules["turtle"] = stub = ModuleType("turtle")
        stub.forward = None  # type: ignore[attr-defined]
        yield
        del sys.modules["turtle"]
    else:
        yield
