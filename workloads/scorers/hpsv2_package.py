"""The `hpsv2` package (1.2.0), made to import: its architecture, preprocessing and tokenizer.

Its published form lacks a file and asks for a library of windows; nothing in it is changed.
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
    """One loaded model, with what turns pictures and prompts into its inputs."""

    model: nn.Module
    prepare: Sequence[Any]
    """The package's steps from (3, P, P) in [0, 1] to the model's (3, S, S), in turn."""
    tokenize: Any
    """T prompts -> (T, 77) tokens."""
    device: str

    @torch.no_grad()
    def scores(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of (B, 3, P, P) in [-1, 1] and their B prompts: (B,), in one forward.

        Each distinct prompt is encoded once.
        """
        distinct = list(dict.fromkeys(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        pixels = torch.stack([self._prepared(picture) for picture in pictures.to(self.device)])
        tokens = self.tokenize(distinct).to(self.device)
        with torch.autocast("cuda", enabled=self.device.startswith("cuda")):
            features = self.model(pixels, tokens)
        images, texts = features["image_features"].float(), features["text_features"].float()
        # Outside of autocast: in half precision the product would be rounded to steps of 2e-4.
        scores: Tensor = torch.linalg.vecdot(images, texts[rows])
        return scores.cpu()

    def _prepared(self, picture: Tensor) -> Tensor:
        """Rounded to 8 bits, as in a file that the package opens, then as the package does."""
        picture = ((picture.float().clamp(-1, 1) + 1) * 127.5).round() / 255
        for step in self.prepare:
            picture = step(picture)
        return picture


def open_clip() -> ModuleType:
    """The package's own open_clip.

    Raises:
        ValueError: open_clip_torch, which holds the vocabulary, is not installed.
    """
    with _windows_stood_in_for(), _vocabulary_found():
        return import_module("hpsv2.src.open_clip")


def build(architecture: str, device: str) -> PreferenceModel:
    """The architecture with random weights, as `hpsv2.img_score` builds it; downloads nothing."""
    package = open_clip()
    settings: dict[str, Any] = {"light_augmentation": True, "aug_cfg": {}, "output_dict": True}
    model, _, preprocess = package.create_model_and_transforms(
        architecture, None, precision="amp", device=device, **settings
    )
    # Its first two steps turn an opened file into (3, P, P) in [0, 1].
    return PreferenceModel(
        model.eval(), preprocess.transforms[2:], package.get_tokenizer(architecture), device
    )


def read_weights(loaded: PreferenceModel, path: Path) -> None:
    """Takes a published checkpoint into the model.

    Raises:
        ValueError: it does not hold this architecture's weights.
    """
    try:
        loaded.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    # A file of something else fails in many ways, an IndexError of torch's reader among them.
    except Exception as error:
        raise ValueError(
            f"scorer 'hpsv2': {path} does not hold weights of {REPOSITORY}; fetch it anew: {describe(error)}"
        ) from None


@contextmanager
def _vocabulary_found() -> Iterator[None]:
    """Has the vocabulary that the package looks for beside itself come from open_clip_torch.

    The files are the same byte for byte; the package opens its own as it is imported.
    """
    installed = find_spec("open_clip")
    if installed is None or installed.origin is None:
        raise ValueError("hpsv2 needs the vocabulary of open_clip_torch: pip install open_clip_torch==3.3.0")
    vocabulary, opened = Path(installed.origin).with_name(VOCABULARY), gzip.open

    def open_instead(path: Any, *rest: Any, **named: Any) -> Any:
        return opened(vocabulary if str(path).endswith(VOCABULARY) else path, *rest, **named)

    with patch("gzip.open", open_instead):
        yield


@contextmanager
def _windows_stood_in_for() -> Iterator[None]:
    """The package imports a name, unused, of `turtle`; a slim Python comes without its windows."""
    try:
        import turtle  # noqa: F401
    except ImportError:
        sys.modules["turtle"] = stand_in = ModuleType("turtle")
        stand_in.forward = None  # type: ignore[attr-defined]
        yield
        del sys.modules["turtle"]
    else:
        yield
