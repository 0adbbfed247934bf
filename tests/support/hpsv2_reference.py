"""Scores of the `hpsv2` package itself, with random weights stored where the package expects them.

Shapes: B images of P x P pixels.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from torch import Tensor

from workloads.images import to_image
from workloads.scorers.hpsv2_package import CHECKPOINTS, build, open_clip

COMMIT = "0" * 40
SMALL = "hps-small"
SMALL_ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PROMPTS = ("a fox in the snow", "Two boats, one red", "An owl's portrait; oil on canvas", "a fox in the snow")


def pictures(count: int, pixels: int) -> Tensor:
    """Return distinct smooth images (count, 3, pixels, pixels) in [-1, 1]."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(pixels, pixels), mode="bilinear")


def random_checkpoint(architecture: str, version: str, cache: Path, dtype: torch.dtype) -> Path:
    """Write a checkpoint of random weights to a hub cache at `cache`, in the published format and place."""
    if architecture == SMALL:
        (cache / f"{SMALL}.json").write_text(json.dumps(SMALL_ARCHITECTURE))
        open_clip().add_model_config(cache / f"{SMALL}.json")
    repository = cache / "models--xswu--HPSv2"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    path = repository / "snapshots" / COMMIT / CHECKPOINTS[version]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(list(CHECKPOINTS).index(version))
    weights = build(architecture, "cpu").model.state_dict()
    torch.save({"state_dict": {name: value.to(dtype) for name, value in weights.items()}}, path)
    return path


@contextmanager
def package_ready(architecture: str, cache: Path) -> Iterator[None]:
    """Let `hpsv2.score` use the hub's cache at `cache`, without its download of the base ViT-H-14.

    It runs `img_score.initialize_model` with the package's own arguments except `pretrained`.
    """
    open_clip()
    from hpsv2 import img_score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        create = img_score.create_model_and_transforms

        def without_download(_name: str, _pretrained: str, **settings: object) -> object:
            return create(architecture, None, **settings)

        patch.setattr(img_score, "create_model_and_transforms", without_download)
        patch.setattr(img_score, "device", "cpu")
        img_score.model_dict.clear()
        yield
        img_score.model_dict.clear()


def package_scores(images: Tensor, prompts: Sequence[str], version: str) -> list[float]:
    """Return `hpsv2.score` of images (B, 3, P, P) in [-1, 1] with their B prompts, one at a time."""
    import hpsv2

    pairs = zip(images, prompts, strict=True)
    return [float(hpsv2.score(to_image(image), prompt, version)[0]) for image, prompt in pairs]
